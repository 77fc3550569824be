"""MVTec AD's layout: CATEGORY/train/good, CATEGORY/test/DEFECT, CATEGORY/ground_truth/DEFECT/NAME_mask.png.

As a script it writes ROOT/meta.json and prints counts and problems: python data/mvtec.py [ROOT]
[--meta FILE] [--quick]
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.datasets import Layout
from data.folder import catalogue_of, read_category
from data.listing import list_folders
from data.prepare import run_script
from data.records import Catalogue
from utils.errors import DataError
from utils.text import printable

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
    """The catalogue of all categories: every folder of root that holds train/good or test, read as
    data/folder.py does. References are drawn from train/ alone.

    Raises DataError if there is none or a folder cannot be read.
    """
    root = Path(root)
    folders = list_folders(root)
    categories = [
        name for name in folders if any((root / name / part).is_dir() for part in ("train/good", "test"))
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
    others = [name for name in folders if name not in categories]
    unused = [f"{printable(name)}/ is not used: it holds no train/good and no test/" for name in others]
    readings = [read_category(root, f"{name}/", name) for name in categories]
    for reading in readings:
        if not (root / reading.category / "train").is_dir():
            reading.train = []
    return catalogue_of(root, readings, unused)


LAYOUT = Layout("mvtec", scan, OFFICIAL_COUNTS)

if __name__ == "__main__":
    sys.exit(run_script(LAYOUT, Path(__file__).with_suffix(""), __doc__))
