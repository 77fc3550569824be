"""MVTec AD's layout: CATEGORY/train/good, CATEGORY/test/DEFECT, CATEGORY/ground_truth/DEFECT/NAME_mask.png.

As a script it writes ROOT/meta.json and prints counts and problems: python data/mvtec.py [ROOT]
[--meta FILE] [--quick]
"""

import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data import folder
from data.catalogue import run_script
from data.records import Catalogue, Layout
from utils.command import run_command

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
    """The catalogue as data/folder.py reads it, but references are sampled from train/ alone: where there is
    none, there are none. DataError where there is no category, or a folder cannot be read."""
    catalogue = folder.scan(root)
    tested = {record for records in catalogue.test.values() for record in records}
    train = {name: [one for one in records if one not in tested] for name, records in catalogue.train.items()}
    return replace(catalogue, train=train)


LAYOUT = Layout("mvtec", scan, OFFICIAL_COUNTS)

if __name__ == "__main__":
    run_command(lambda _: run_script(LAYOUT, Path(__file__).with_suffix(""), __doc__))
