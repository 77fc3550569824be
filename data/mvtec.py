"""MVTec AD's layout: CATEGORY/train/good, CATEGORY/test/DEFECT, CATEGORY/ground_truth/DEFECT/NAME_mask.png.

As a script it writes ROOT/meta.json and prints counts and problems: python data/mvtec.py [ROOT]
[--meta FILE] [--quick]
"""

import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.layout import Layout
from data.listing import list_folders, list_images, unread_below
from data.masks import is_mask_folder, masks_next_to
from data.parts import Masks
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
    """The catalogue of all categories: every folder of root that holds train/good or test.

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
    catalogue = Catalogue(root, train, test)
    return replace(catalogue, unused=tuple(_unused(root, catalogue)))


def scan_split(root: Path, category: str, split: str) -> list[Record]:
    """The records of root/category/split in natural order, with their masks by name."""
    records, folder = [], root / category / split
    masks = Masks(root, _mask_folders(root, category))
    for defect in list_folders(folder) if folder.is_dir() else []:
        anomalous = defect != "good"
        place, names = f"{category}/{split}/{defect}", list_images(folder / defect)
        marked = masks_next_to(names)
        own = {photo: f"{place}/{mask}" for mask, photo in marked.items()}
        for name in names:
            if name not in marked:
                may_have_mask = anomalous and split == "test"
                mask = masks.of(defect, Path(name).stem) or own.get(name, "") if may_have_mask else ""
                records.append(Record(f"{place}/{name}", mask, category, defect, anomalous))
    return sorted(records, key=lambda record: natural_key(record.image_path))


def _mask_folders(root: Path, category: str) -> list[str]:
    """The category's folders of masks: ground_truth, masks and the like."""
    return [f"{category}/{name}" for name in list_folders(root / category) if is_mask_folder(name)]


def _unused(root: Path, catalogue: Catalogue) -> list[str]:
    """A sentence for each thing in root that is not read: folders, masks of no image, and photographs of
    other formats."""
    sentences = [
        f"{printable(name)}/ is not used: it holds no train/good and no test/"
        for name in list_folders(root)
        if name not in catalogue.test
    ]
    for category, records in catalogue.test.items():
        folders = [name for name in list_folders(root / category) if not is_mask_folder(name)]
        sentences += [
            f"{printable(f'{category}/{name}')}/ is not used: the images are those in train/ and test/"
            for name in folders
            if name not in ("train", "test")
        ]
        masks = Masks(root, _mask_folders(root, category))
        orphans = sorted(masks.paths - {record.mask_path for record in records}, key=natural_key)
        sentences += [f"{printable(path)}: mask of no image in the defect's folder" for path in orphans]
    return sentences + unread_below(root)


LAYOUT = Layout("mvtec", scan, OFFICIAL_COUNTS)

if __name__ == "__main__":
    sys.exit(run_script(LAYOUT, Path(__file__).with_suffix(""), __doc__))
