"""Your own photographs: one category or a folder of categories, each in either of two layouts.

    CATEGORY/good/...                    normal photographs; references are drawn from them and left out of
    the test CATEGORY/DEFECT/...                  any number of defect folders, any names
    CATEGORY/masks/DEFECT/NAME.png       optional; ground_truth/DEFECT/NAME_mask.png is the same

    CATEGORY/train/good/...              where there is train/: references are drawn from here alone
    CATEGORY/test/good/..., test/DEFECT/...
    CATEGORY/masks/DEFECT/NAME.png       optional, as above

good may also be called ok or normal, in any case. As a script it shows how a folder is understood and writes
nothing: python data/folder.py DIR
"""

import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.layout import Layout
from data.mvtec import find_masks, list_folders, list_images
from data.prepare import add_check_flags, print_catalogue
from data.records import Catalogue, Record
from utils.errors import DataError
from utils.text import natural_key, printable

NORMAL_NAMES = ("good", "ok", "normal")
MASK_FOLDERS = ("masks", "ground_truth")
SPLIT_FOLDERS = ("train", "test")


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
    readings, _ = read_folder(root)
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
    categories = [name for name in names if is_category(inside[name]) and name.casefold() not in MASK_FOLDERS]
    if not categories:
        raise DataError(
            f"{printable(root)}: holds no folder good (or ok, normal), no train and test, and no folder that "
            "has them; put the normal photographs into a folder named good"
        )
    sentences = [f"{printable(root)} is a folder of {len(categories)} categories"]
    sentences += [
        f"{printable(name)}/ is not used: it holds no good/ and no train/ or test/"
        for name in names
        if name not in categories
    ]
    return [read_category(root, name + "/", name) for name in categories], sentences


def is_category(folders: list[str]) -> bool:
    """Whether a folder with these sub-folders is a category."""
    return any(is_normal(name) or name in SPLIT_FOLDERS for name in folders)


def is_normal(name: str) -> bool:
    return name.casefold() in NORMAL_NAMES


def read_category(root: Path, prefix: str, category: str) -> Reading:
    """Read root/prefix ("" or "CATEGORY/"); the records' paths are relative to root."""
    reading = Reading(category)
    folders = list_folders(root / prefix)
    mask_folders = [name for name in folders if name.casefold() in MASK_FOLDERS]
    splits = [name for name in SPLIT_FOLDERS if name in folders]
    masks = {}
    for folder in mask_folders:
        for defect in list_folders(root / prefix / folder):
            masks.setdefault(defect, {}).update(find_masks(root, f"{prefix}{folder}/{defect}"))
    if splits:
        others = [name for name in folders if name not in splits and name not in mask_folders]
        reading.unused += [
            f"{printable(prefix + name)}/ is not used: the images are those in {'/ and '.join(splits)}/"
            for name in others
        ]
        _note_loose_images(root, prefix, reading)
    parts = {split: _read_part(root, f"{prefix}{split}/", category, masks, reading) for split in splits}
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
            parts["test"]
            if "test" in parts
            else _read_part(root, prefix, category, masks, reading, leave_out=mask_folders)
        )
        reading.train = [record for record in reading.test if not record.anomalous]
        reading.rules.append(
            "no train/: references are drawn from the good images, and those drawn are not tested"
        )
    _note_masks(reading, masks)
    return reading


def _read_part(
    root: Path,
    prefix: str,
    category: str,
    masks: dict[str, dict[str, str]],
    reading: Reading,
    leave_out: list[str] | tuple = (),
) -> list[Record]:
    """Records of the normal and defect folders in root/prefix, in natural order."""
    _note_loose_images(root, prefix, reading)
    records = []
    for folder in list_folders(root / prefix):
        if folder in leave_out:
            continue
        anomalous = not is_normal(folder)
        images = list_images(root / prefix / folder)
        of_defect = masks.get(folder, {}) if anomalous else {}
        records += [
            Record(
                f"{prefix}{folder}/{name}",
                of_defect.get(Path(name).stem, ""),
                category,
                folder if anomalous else "good",
                anomalous,
            )
            for name in images
        ]
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


def _note_masks(reading: Reading, masks: dict[str, dict[str, str]]) -> None:
    """Say what can be measured, and name the masks that belong to no image."""
    used = {record.mask_path for record in reading.test}
    orphans = sorted({path for paths in masks.values() for path in paths.values()} - used, key=natural_key)
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
    print_catalogue(scan(options.root), LAYOUT, options)
    return 0


LAYOUT = Layout("folder", scan, needs_masks=False)

if __name__ == "__main__":
    sys.exit(main())
