"""The photographs of a category's normal and defect folders, with their masks, as people and public datasets
arrange them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from data.listing import list_folders, list_images
from data.masks import is_mask_folder, key, masks_in, masks_next_to, of_same_name, open_mask
from data.records import Record
from utils.errors import DataError
from utils.text import natural_key, printable

NORMAL_NAMES = ("good", "ok", "normal")
DEFECTIVE_NAMES = tuple("ng nok ko bad defect defects defective anomaly anomalous abnormal".split())
UNNAMED = "defect"  # the kind of a defect that no folder names


@dataclass
class CategoryReading:
    """How one category was read: its records, and as sentences the rules that applied and what is unused."""

    category: str
    train: list[Record] = field(default_factory=list)
    test: list[Record] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    views: int = 0  # images of defective parts without a mask, where other views of the part have one
    first_view: str = ""


def is_normal(name: str) -> bool:
    return name.casefold() in NORMAL_NAMES


class Masks:
    """The masks of a category by kind of defect, and those directly in a mask folder."""

    def __init__(self, root: Path, folders: list[str]) -> None:
        self.of_all: dict[str, str] = {}
        self.of_kind: dict[str, dict[str, str]] = {}
        for folder in folders:
            self.of_all |= masks_in(root, folder, with_folders=False)
            for kind in list_folders(root / folder):
                self.of_kind.setdefault(key(kind), {}).update(masks_in(root, f"{folder}/{kind}"))

    def of(self, kind: str, stem: str) -> str:
        """The path of a photograph's mask; "" where there is none."""
        own = self.of_kind.get(key(kind), {})
        return own.get(key(stem)) or self.of_all.get(key(stem), "")

    @property
    def paths(self) -> set[str]:
        return {*self.of_all.values(), *(path for kind in self.of_kind.values() for path in kind.values())}


def read_part(root: Path, prefix: str, category: str, masks: Masks, reading: CategoryReading) -> list[Record]:
    """Records of the normal and defect folders in root/prefix, in natural order. Where there are only loose
    photographs with masks next to them: the records of these."""
    loose = list_images(root / prefix)
    folders = [name for name in list_folders(root / prefix) if not is_mask_folder(name)]
    if loose and not folders and (records := _records_of_loose(root, prefix, category, reading)):
        return records
    note_loose_images(root, prefix, reading)
    records = []
    for folder in folders:
        for place, defect in _places(root, f"{prefix}{folder}", reading):
            records += _records_in(root, place, defect, category, masks, reading)
    return sorted(records, key=lambda record: natural_key(record.image_path))


def _records_in(
    root: Path, place: str, defect: str, category: str, masks: Masks, reading: CategoryReading
) -> list[Record]:
    """Records of the photographs directly in root/place; `defect`: "" for normal ones."""
    names = list_images(root / place)
    marked = masks_next_to(names)
    if not defect:
        images = [name for name in names if name not in marked]
        return [Record(f"{place}/{name}", "", category, "good", False) for name in images]
    same = of_same_name(names)
    own = {photo: f"{place}/{mask}" for mask, photo in {**same, **marked}.items()}
    images = [name for name in names if name not in marked and name not in same]
    if same:
        reading.rules.append(SAME_NAME)
        images = _with_own_mask(images, own, place, reading)
    return [
        Record(f"{place}/{name}", own.get(name) or masks.of(defect, Path(name).stem), category, defect, True)
        for name in images
    ]


SAME_NAME = "a PNG next to a JPEG of its name in a defect's folder is its mask"


def _with_own_mask(images: list[str], own: dict[str, str], place: str, reading: CategoryReading) -> list[str]:
    """The images that have a mask: where some views of a part have one, a view without may show no defect."""
    without = [name for name in images if name not in own]
    if without:
        reading.views += len(without)
        reading.first_view = reading.first_view or f"{place}/{without[0]}"
    return [name for name in images if name in own]


def _places(root: Path, folder: str, reading: CategoryReading) -> list[tuple[str, str]]:
    """(folder of photographs, kind of defect, "" for normal ones) of a normal or defect folder: the folder
    itself, or where it holds only folders those below it."""
    name, top = folder.rpartition("/")[2], os.path.realpath(root / folder)
    images, inner = list_images(root / folder), list_folders(root / folder)
    if images and inner:
        reading.unused.append(f"folders inside {printable(folder)}/ are not read")
    if images or not inner:
        if not images:
            reading.unused.append(f"{printable(folder)}/ holds no image")
        return [(folder, "" if is_normal(name) else name)]
    names_kinds = name.casefold() in DEFECTIVE_NAMES
    return [
        (place, one if names_kinds else "" if is_normal(name) else name)
        for one in inner
        for place in _folders_with_images(root, f"{folder}/{one}", (top,))
    ]


def _folders_with_images(root: Path, folder: str, above: tuple[str, ...]) -> list[str]:
    """The folders with photographs, from `folder` down. Links to a folder `above` are not followed."""
    real = os.path.realpath(root / folder)
    if real in above:
        return []
    folders = [folder] if list_images(root / folder) else []
    for name in list_folders(root / folder):
        folders += _folders_with_images(root, f"{folder}/{name}", (*above, real))
    return folders


def _records_of_loose(root: Path, prefix: str, category: str, reading: CategoryReading) -> list[Record]:
    """Records of the photographs directly in root/prefix with a mask next to them; a black mask means
    normal."""
    names = list_images(root / prefix)
    marked = masks_next_to(names)
    own = {photo: mask for mask, photo in marked.items()}
    records = []
    for name, mask in own.items():
        try:
            bad = open_mask(root / prefix / mask).getextrema()[1] != 0
        except DataError as error:
            raise DataError(f"mask of {printable(prefix + name)}: {error}") from error
        defect = UNNAMED if bad else "good"
        records.append(Record(f"{prefix}{name}", f"{prefix}{mask}" if bad else "", category, defect, bad))
    without = [name for name in names if name not in marked and name not in own]
    if records:
        reading.rules.append(
            f"{printable(prefix)}: each image has its mask next to it, a black mask means normal"
        )
    if records and without:
        reading.unused.append(
            f"{len(without)} images in {printable(prefix)} have no mask next to them: left out, the first "
            f"{printable(without[0])}"
        )
    return sorted(records, key=lambda record: natural_key(record.image_path))


def note_loose_images(root: Path, prefix: str, reading: CategoryReading) -> None:
    loose = list_images(root / prefix)
    if loose:
        reading.unused.append(
            f"{len(loose)} images directly in {printable(prefix) or 'the folder'} are not used, the "
            f"first {printable(loose[0])}: put them into good/ or a defect's folder"
        )
