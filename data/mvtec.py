"""MVTec AD's layout: CATEGORY/train/good, CATEGORY/test/DEFECT, CATEGORY/ground_truth/DEFECT/NAME_mask.png.

As a script it writes ROOT/meta.json and says what it found: python data/mvtec.py [ROOT] [--meta FILE]
[--quick]
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.images import IMAGE_SUFFIXES
from data.layout import Layout
from data.prepare import run_script
from data.records import Catalogue, Record
from utils.errors import DataError
from utils.text import natural_key, printable

# Normal training, normal test and anomalous test images (Bergmann et al., CVPR 2019, table 1).
OFFICIAL_COUNTS = {
    "bottle": (209, 20, 63),
    "cable": (224, 58, 92),
    "capsule": (219, 23, 109),
    "carpet": (280, 28, 89),
    "grid": (264, 21, 57),
    "hazelnut": (391, 40, 70),
    "leather": (245, 32, 92),
    "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141),
    "screw": (320, 41, 119),
    "tile": (230, 33, 84),
    "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40),
    "wood": (247, 19, 60),
    "zipper": (240, 32, 119),
}


def scan(root: str | Path) -> Catalogue:
    """The catalogue of the categories that are there: every folder of root that holds train/good or test.

    Raises DataError if there is none or a folder cannot be read.
    """
    root = Path(root)
    folders = list_folders(root)
    categories = [
        name
        for name in folders
        if (root / name / "train" / "good").is_dir() or (root / name / "test").is_dir()
    ]
    if not categories and ("test" in folders or "train" in folders):
        raise DataError(
            f"{printable(root)}: is one category, not the dataset's root; give the folder above it"
        )
    if not categories:
        raise DataError(
            f"{printable(root)}: holds no category (a folder with train/good and test); give the folder that "
            "holds the category folders"
        )
    train, test = (
        {name: scan_split(root, name, split) for name in categories} for split in ("train", "test")
    )
    return Catalogue(root, train, test)


def scan_split(root: Path, category: str, split: str) -> list[Record]:
    """The records of root/category/split, defect by defect in natural order; masks are paired by name."""
    records, folder = [], root / category / split
    for defect in list_folders(folder) if folder.is_dir() else []:
        anomalous = defect != "good"
        masks = find_masks(root, f"{category}/ground_truth/{defect}") if anomalous and split == "test" else {}
        records += [
            Record(
                f"{category}/{split}/{defect}/{name}",
                masks.get(Path(name).stem, ""),
                category,
                defect,
                anomalous,
            )
            for name in list_images(folder / defect)
        ]
    return sorted(records, key=lambda record: natural_key(record.image_path))


def find_masks(root: Path, folder: str) -> dict[str, str]:
    """Image stem -> path of its mask relative to root, for the masks in root/folder: STEM_mask.* before
    STEM.*."""
    names = list_images(root / folder) if (root / folder).is_dir() else []
    plain = {Path(name).stem: f"{folder}/{name}" for name in reversed(names)}
    marked = {stem.removesuffix("_mask"): path for stem, path in plain.items() if stem.endswith("_mask")}
    return plain | marked


def list_folders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, in natural order; DataError if it cannot be read."""
    return _list(folder, _is_folder)


def list_images(folder: Path) -> list[str]:
    """Names of the visible image files in a folder, in natural order, dangling links included so that they
    are named as missing later; DataError if the folder cannot be read."""
    return _list(
        folder, lambda entry: Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not _is_folder(entry)
    )


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _list(folder: Path, wanted) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and wanted(entry)]
    except OSError as error:
        raise DataError(
            f"{printable(folder)}: cannot be listed ({error.strerror}); give an existing folder with read "
            "permission"
        ) from error
    return sorted(names, key=natural_key)


LAYOUT = Layout("mvtec", scan, OFFICIAL_COUNTS)

if __name__ == "__main__":
    sys.exit(run_script(LAYOUT, Path(__file__).with_suffix(""), __doc__))
