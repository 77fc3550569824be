"""The photographs of a category's normal and defect folders, with their masks, as people and public datasets
arrange them."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from data.listing import list_folders, list_images
from data.masks import is_mask_folder, key, masks_in, masks_next_to, of_same_name, open_mask
from data.records import Record, by_path
from utils.errors import DataError
from utils.text import printable

NORMAL_NAMES = ("good", "ok", "normal")
DEFECTIVE_NAMES = tuple("ng nok ko bad defect defects defective anomaly anomalous abnormal".split())
UNNAMED = "defect"  # the kind of a defect that no folder names
SAME_NAME = "a PNG next to a JPEG of its name in a defect's folder is its mask"


def is_normal(name: str) -> bool:
    return name.casefold() in NORMAL_NAMES


@dataclass
class CategoryReading:
    """How one category in `root` is read: its records, and as sentences the rules that applied and what is
    unused. views: images of defective parts without a mask, where other views of the part have one. masks: by
    the keys of a kind of defect ("": those directly in a mask folder) and of a photograph's stem. All paths
    are relative to `root`."""

    root: Path
    category: str
    train: list[Record] = field(default_factory=list)
    test: list[Record] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    masks: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def take_masks(self, folder: str) -> None:
        """Adds the masks of a mask folder."""
        self.masks[""] |= masks_in(self.root, folder, with_folders=False)
        for kind in list_folders(self.root / folder):
            self.masks[key(kind)] |= masks_in(self.root, f"{folder}/{kind}")

    def records_of(self, prefix: str) -> list[Record]:
        """Records of the normal and defect folders in root/prefix, in natural order. Where there are only
        loose photographs with masks next to them: the records of these."""
        folders = [name for name in list_folders(self.root / prefix) if not is_mask_folder(name)]
        records = [] if folders else self._records_of_loose(prefix)
        if not records:
            self.note_loose_images(prefix)
        for folder in folders:
            for place, defect in self._places(f"{prefix}{folder}"):
                records += self._records_in(place, defect)
        return by_path(records)

    def note_loose_images(self, prefix: str) -> None:
        """Adds the photographs directly in root/prefix to what is unused."""
        loose = list_images(self.root / prefix)
        if loose:
            self.unused.append(
                f"{len(loose)} images directly in {printable(prefix) or 'the folder'} are not used, the "
                f"first {printable(loose[0])}: put them into good/ or a defect's folder"
            )

    def _records_in(self, place: str, defect: str) -> list[Record]:
        """Records of the photographs directly in root/place; `defect`: "" for normal ones."""
        names = list_images(self.root / place)
        marked = masks_next_to(names)
        images = [name for name in names if name not in marked]
        if not defect:
            return [Record(f"{place}/{name}", "", self.category, "good", False) for name in images]
        same = of_same_name(names)
        own = {photo: f"{place}/{mask}" for mask, photo in {**same, **marked}.items()}
        images = [name for name in images if name not in same]
        if same:  # a view without a mask may show no defect
            self.rules.append(SAME_NAME)
            self.views += [f"{place}/{name}" for name in images if name not in own]
            images = [name for name in images if name in own]
        of_kind = self.masks[""] | self.masks[key(defect)]
        masks = {name: own.get(name) or of_kind.get(key(Path(name).stem), "") for name in images}
        return [Record(f"{place}/{name}", mask, self.category, defect, True) for name, mask in masks.items()]

    def _places(self, folder: str) -> list[tuple[str, str]]:
        """(folder of photographs, kind of defect, "" for normal ones) of a normal or defect folder: the
        folder itself, or where it holds only folders those below it."""
        name, top = folder.rpartition("/")[2], os.path.realpath(self.root / folder)
        images, inner = list_images(self.root / folder), list_folders(self.root / folder)
        if images and inner:
            self.unused.append(f"folders inside {printable(folder)}/ are not read")
        if images or not inner:
            if not images:
                self.unused.append(f"{printable(folder)}/ holds no image")
            return [(folder, "" if is_normal(name) else name)]
        names_kinds = name.casefold() in DEFECTIVE_NAMES
        return [
            (place, one if names_kinds else "" if is_normal(name) else name)
            for one in inner
            for place in self._folders_with_images(f"{folder}/{one}", (top,))
        ]

    def _folders_with_images(self, folder: str, above: tuple[str, ...]) -> list[str]:
        """The folders with photographs, from `folder` down. Links to a folder `above` are not followed."""
        real = os.path.realpath(self.root / folder)
        if real in above:
            return []
        folders = [folder] if list_images(self.root / folder) else []
        for name in list_folders(self.root / folder):
            folders += self._folders_with_images(f"{folder}/{name}", (*above, real))
        return folders

    def _records_of_loose(self, prefix: str) -> list[Record]:
        """Records of the photographs directly in root/prefix with a mask next to them; a black mask means
        normal."""
        names = list_images(self.root / prefix)
        marked = masks_next_to(names)
        own, records = {photo: mask for mask, photo in marked.items()}, []
        for name, mask in own.items():
            try:
                bad = open_mask(self.root / prefix / mask).getextrema()[1] != 0
            except DataError as error:
                raise DataError(f"mask of {printable(prefix + name)}: {error}") from error
            defect, path = (UNNAMED, f"{prefix}{mask}") if bad else ("good", "")
            records.append(Record(f"{prefix}{name}", path, self.category, defect, bad))
        without = [name for name in names if name not in marked and name not in own]
        if records:
            self.rules.append(f"{printable(prefix)}: each image has its mask next to it; black means normal")
        if records and without:
            self.unused.append(
                f"{len(without)} images in {printable(prefix)} have no mask next to them: left out, the "
                f"first {printable(without[0])}"
            )
        return records
