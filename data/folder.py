"""Your own photographs: one category or a folder of categories, each in either of two layouts.

    CATEGORY/good/...                    normal photographs; references are drawn from them and left out of
                                         the test
    CATEGORY/DEFECT/...                  any number of defect folders, any names
    CATEGORY/masks/DEFECT/NAME.png       optional; ground_truth/DEFECT/NAME_mask.png is the same, and so are
                                         masks/NAME.png and DEFECT/NAME_mask.png beside its photograph

    CATEGORY/train/good/...              where there is train/: references are drawn from here alone
    CATEGORY/test/good/..., test/DEFECT/...
    CATEGORY/masks/DEFECT/NAME.png       optional, as above

good may also be called ok or normal, and test test_public; all folders in any case. As a script it shows how
a folder is understood and writes nothing: python data/folder.py DIR
"""

import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.layout import Layout
from data.masks import beside, is_mask_folder, key, masks_in
from data.mvtec import list_folders, list_images
from data.prepare import add_check_flags, print_catalogue
from data.records import Catalogue, Record
from utils.errors import DataError
from utils.log import warn
from utils.text import natural_key, printable

NORMAL_NAMES = ("good", "ok", "normal")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "test_public": "test",
}


@dataclass
class Reading:
    """How one category was understood: its records, the rules that applied and what was left aside."""

    category: str
    train: list[Record] = field(default_factory=list)
    test: list[Record] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def scan(root: str | Path) -> Catalogue:
    """The catalogue of a folder by the rules above; where a category has no train/, its good images are in
    train and in test alike and `without_references` takes the drawn ones out. Raises DataError where no
    category is found."""
    readings, sentences = read_folder(root)
    warn([sentence for sentence in sentences if "is not used" in sentence])
    warn([f"{printable(r.category)}: {sentence}" for r in readings for sentence in r.unused])
    return _catalogue(root, readings)


def _catalogue(root: str | Path, readings: list[Reading]) -> Catalogue:
    return Catalogue(
        Path(root), {r.category: r.train for r in readings}, {r.category: r.test for r in readings}
    )


def read_folder(root: str | Path) -> tuple[list[Reading], list[str]]:
    """A reading of every category in root, and the sentences that hold for root itself."""
    root = Path(root)
    names = list_folders(root)
    if is_category(names):
        category = os.path.basename(os.path.abspath(root)) or "category"
        return [read_category(root, "", category)], [
            f"{printable(root)} is one category, {printable(category)}"
        ]
    inside = {name: list_folders(root / name) for name in names}
    categories = [name for name in names if is_category(inside[name]) and not is_mask_folder(name)]
    if not categories:
        raise DataError(
            f"{printable(root)}: holds no folder good (or ok, normal), no train and test, and no folder that "
            f"has them{_found(root, names)}; put the normal photographs into a folder named good"
        )
    sentences = [f"{printable(root)} is a folder of {len(categories)} categories"]
    sentences += [
        f"{printable(name)}/ is not used: it holds no good/ and no train/ or test/"
        for name in names
        if name not in categories
    ]
    return [read_category(root, name + "/", name) for name in categories], sentences


def _found(root: Path, names: list[str]) -> str:
    """What a folder holds instead, as part of a sentence."""
    images = len(list_images(root))
    parts = [f"{images} images directly"] if images else []
    parts += (
        [f"{printable(names[0])}/" + (f" and {len(names) - 1} more folders" if names[1:] else "")]
        if names
        else []
    )
    return f" (it holds {' and '.join(parts)})" if parts else ""


def split_of(name: str) -> str | None:
    """train or test, for a folder that is called so."""
    return SPLIT_FOLDERS.get(name.casefold())


def is_category(folders: list[str]) -> bool:
    """Whether a folder with these sub-folders is a category."""
    return any(is_normal(name) or split_of(name) for name in folders)


def is_normal(name: str) -> bool:
    return name.casefold() in NORMAL_NAMES


def read_category(root: Path, prefix: str, category: str) -> Reading:
    """Read root/prefix ("" or "CATEGORY/"); the records' paths are relative to root."""
    reading = Reading(category)
    folders = list_folders(root / prefix)
    mask_folders = [f"{prefix}{name}" for name in folders if is_mask_folder(name)]
    splits = {name: split for name in folders if (split := split_of(name))}
    for name in splits:
        inner = list_folders(root / prefix / name)
        mask_folders += [f"{prefix}{name}/{one}" for one in inner if is_mask_folder(one)]
    masks = Masks(root, mask_folders)
    if splits:
        others = [name for name in folders if name not in splits and not is_mask_folder(name)]
        reading.unused += [
            f"{printable(prefix + name)}/ is not used: the images are those in {'/ and '.join(splits)}/"
            for name in others
        ]
        _note_loose_images(root, prefix, reading)
    parts: dict[str, list[Record]] = {}
    for name, split in splits.items():
        parts.setdefault(split, []).extend(_read_part(root, f"{prefix}{name}/", category, masks, reading))
    if "train" in parts:
        reading.train = [record for record in parts["train"] if not record.anomalous]
        reading.test = parts.get("test", [])
        defects = sorted({record.defect for record in parts["train"] if record.anomalous}, key=natural_key)
        reading.unused += [
            f"{printable(f'{prefix}train/{defect}')}/ is not used: only normal images are drawn from train/"
            for defect in defects
        ]
        reading.rules.append("references are drawn from train/; test/ is tested")
    else:
        reading.test = (
            parts["test"] if "test" in parts else _read_part(root, prefix, category, masks, reading)
        )
        reading.train = [record for record in reading.test if not record.anomalous]
        reading.rules.append(
            "no train/: references are drawn from the good images, and those drawn are not tested"
        )
    _note_masks(reading, masks)
    return reading


class Masks:
    """The masks of a category: of each kind of defect, and those that lie in a mask folder itself."""

    def __init__(self, root: Path, folders: list[str]) -> None:
        self.of_all: dict[str, str] = {}
        self.of_kind: dict[str, dict[str, str]] = {}
        for folder in folders:
            self.of_all |= {
                stem: path
                for stem, path in masks_in(root, folder).items()
                if path.count("/") == folder.count("/") + 1
            }
            for kind in list_folders(root / folder):
                self.of_kind.setdefault(key(kind), {}).update(masks_in(root, f"{folder}/{kind}"))

    def of(self, kind: str, stem: str) -> str:
        """The path of a photograph's mask; "" where there is none."""
        own = self.of_kind.get(key(kind), {})
        return own.get(key(stem)) or self.of_all.get(key(stem), "")

    @property
    def paths(self) -> set[str]:
        return {*self.of_all.values(), *(path for kind in self.of_kind.values() for path in kind.values())}


def _read_part(root: Path, prefix: str, category: str, masks: Masks, reading: Reading) -> list[Record]:
    """Records of the normal and defect folders in root/prefix, in natural order."""
    _note_loose_images(root, prefix, reading)
    records = []
    for folder in list_folders(root / prefix):
        if is_mask_folder(folder):
            continue
        anomalous = not is_normal(folder)
        names = list_images(root / prefix / folder)
        own = {photo: f"{prefix}{folder}/{mask}" for mask, photo in beside(names).items()}
        images = [name for name in names if name not in beside(names)]
        for name in images:
            mask = (own.get(name) or masks.of(folder, Path(name).stem)) if anomalous else ""
            defect = folder if anomalous else "good"
            records.append(Record(f"{prefix}{folder}/{name}", mask, category, defect, anomalous))
        if not images:
            reading.unused.append(f"{printable(prefix + folder)}/ holds no image")
        if list_folders(root / prefix / folder):
            reading.unused.append(f"folders inside {printable(prefix + folder)}/ are not read")
    return sorted(records, key=lambda record: natural_key(record.image_path))


def _note_loose_images(root: Path, prefix: str, reading: Reading) -> None:
    loose = list_images(root / prefix)
    if loose:
        reading.unused.append(
            f"{len(loose)} images directly in {printable(prefix) or 'the folder'} are not used, the "
            f"first {printable(loose[0])}: put them into good/ or a defect's folder"
        )


def _note_masks(reading: Reading, masks: Masks) -> None:
    """Say what can be measured, and name the masks that belong to no image."""
    used = {record.mask_path for record in reading.test}
    orphans = sorted(masks.paths - used, key=natural_key)
    reading.unused += [f"{printable(path)}: mask of no image in the defect's folder" for path in orphans]
    defects = [record for record in reading.test if record.anomalous]
    without = sum(not record.mask_path for record in defects)
    if not defects:
        reading.rules.append("no defects: scores only")
    elif without == len(defects):
        reading.rules.append("no masks: image metrics only")
    else:
        reading.rules.append(f"masks for {len(defects) - without} of {len(defects)} defective images")


def main(arguments: list[str] | None = None) -> int:
    """Print how a folder is understood; returns the exit code (2 and one sentence where it is not)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, metavar="DIR")
    add_check_flags(parser)
    options = parser.parse_args(arguments)
    try:
        readings, sentences = read_folder(options.root)
    except DataError as error:
        print(f"data/folder.py: {error}", file=sys.stderr)
        return 2
    for reading in readings:
        sentences += [
            f"{printable(reading.category)}: {sentence}" for sentence in reading.rules + reading.unused
        ]
    print("\n".join(sentences))
    print_catalogue(_catalogue(options.root, readings), LAYOUT, options)
    return 0


LAYOUT = Layout("folder", scan, needs_masks=False)

if __name__ == "__main__":
    sys.exit(main())
