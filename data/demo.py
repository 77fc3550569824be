"""Draws two small inspection datasets, so that the whole system runs without a download: `python data/demo.py
[DIR]`.

DIR/mvtec has MVTec AD's layout (a woven fabric, a steel gear), DIR/visa has VisA's (a circuit board,
leather). Every defective piece is drawn twice, without and with its defect, under the same light; the mask
is where the two differ.
"""

import csv
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.drawn.circuit import circuit  # noqa: E402
from data.drawn.defects import Line, Spot, dent  # noqa: E402
from data.drawn.products import Flaw, fabric, gear, leather  # noqa: E402
from data.drawn.surfaces import Surface, develop, expose  # noqa: E402
from utils.command_line import CommandLine  # noqa: E402
from utils.console import put_line  # noqa: E402

VERSION = 3  # raised when the drawings change: older folders are drawn anew
MARKER = "demo.json"  # written last; a folder without it is not a finished demo
SIZES = (0.8, 1.1, 1.5, 2.0)  # of a category's defects, in turn
VISIBLE = 0.045  # a difference in brightness or colour above this belongs to the mask
ATTEMPTS = 20  # to place a defect where it can be seen
SMALLEST_MASK = 40  # pixels


@dataclass(frozen=True)
class Product:
    """A category: how a piece is drawn, the picture's (height, width), and what paints each kind of defect.

    A kind without a painter is structural: the product draws it itself.
    """

    draw: Callable
    shape: tuple[int, int]
    defects: dict[str, Callable | None]


HOLE = Spot((0.035, 0.035, 0.04), 9, rough=0.2, height=-4, edge=1.5)
MVTEC = {
    "fabric": Product(
        fabric,
        (320, 320),
        {
            "hole": HOLE,
            "missing_yarn": None,
            "oil_stain": Spot((0.20, 0.15, 0.09), 17, 3, 24, opacity=0.6, dye=0.45),
            "loose_thread": Line((0.42, 0.13, 0.12), 90, 2.4, 1.1, height=1.2, shadow=True),
        },
    ),
    "gear": Product(
        gear,
        (320, 320),
        {
            "broken_tooth": None,
            "dent": dent,
            "rust": Spot((0.40, 0.20, 0.085), 10, 5, 7, rough=0.4, grain=0.2, height=0.5),
            "scratch": Line((0.08, 0.075, 0.07), 55, 3.2, 0.18, height=-1.5, gloss=0.2),
        },
    ),
}
VISA = {
    "circuit": Product(
        circuit,
        (304, 384),
        {
            "missing_part": None,
            "wrong_part": None,
            "tilted_part": None,
            "solder_bridge": Spot((0.62, 0.63, 0.63), 7, 4, 7, height=4, gloss=0.4),
            "burn": Spot((0.05, 0.043, 0.04), 13, 3, 6, rough=0.4, grain=0.4, dye=0.2),
            "scratch": Line((0.75, 0.74, 0.70), 55, 3.2, 0.18, height=-1.5, gloss=0.2),
            "hair": Line((0.78, 0.76, 0.72), 90, 2.2, 1.1, height=1.2, shadow=True),
        },
    ),
    "leather": Product(
        leather,
        (320, 352),
        {
            "cut": Line((0.16, 0.11, 0.08), 70, 2.4, 0.3, jagged=0.3, height=-2.5),
            "glue": Line((0.93, 0.93, 0.90), 40, 9, 0.7, opacity=0.7, height=1, gloss=0.3),
            "hole": HOLE,
            "fold": Line((0.45, 0.32, 0.22), 110, 5, 0.3, opacity=0.6, height=-4, gloss=0.1),
            "ink": Spot((0.10, 0.11, 0.20), 17, 3, 24, opacity=0.55, dye=0.45),
        },
    ),
}


def generator(seed: int, *names: object) -> np.random.Generator:
    """A generator of its own for what `names` name, the same on every machine."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, names)).encode())])


def draw_piece(product: Product, seed: int, name: str, flaw: Flaw | None = None) -> Surface:
    """The piece `name`, without a defect or with a structural flaw."""
    return product.draw(generator(seed, name, "piece"), product.shape, flaw)


def draw_normal(product: Product, seed: int, name: str) -> np.ndarray:
    """The photograph (H,W,3) uint8 RGB of the piece `name`, without a defect."""
    exposure = expose(draw_piece(product, seed, name), generator(seed, name, "light"))
    return develop(exposure, generator(seed, name, "sensor"))


def draw_defective(
    product: Product, seed: int, name: str, kind: str, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """The photograph (H,W,3) uint8 RGB of a piece with one defect, and its mask (H,W) bool.

    A defect that is nearly invisible is drawn again elsewhere on the piece, up to ATTEMPTS times.
    """
    whole, painter = draw_piece(product, seed, name), product.defects[kind]
    plain = expose(whole, generator(seed, name, "light"))
    for attempt in range(ATTEMPTS):
        rng = generator(seed, name, "defect", attempt)
        flawed = Flaw(kind, size, rng)
        broken = painter(whole, rng, size) if painter else draw_piece(product, seed, name, flawed)
        exposure = expose(broken, generator(seed, name, "light"))
        mask = difference_mask(plain, exposure)
        if mask.sum() >= SMALLEST_MASK:
            return develop(exposure, generator(seed, name, "sensor")), mask
    raise RuntimeError(f"{name}: no visible {kind} in {ATTEMPTS} attempts")


def difference_mask(plain: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Where two exposures (H,W,3) of one piece differ visibly: bool (H,W), pinholes closed, specks
    dropped."""
    changed = (np.abs(picture - plain).max(2) > VISIBLE).astype(np.uint8)
    closed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    return cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0


def defect_list(product: Product, count: int) -> list[tuple[str, float]]:
    """(kind, size) of `count` defects: kinds in turn, and sizes in turn over each kind's pieces."""
    kinds = list(product.defects)
    return [(kinds[i % len(kinds)], SIZES[(i // len(kinds) + i) % len(SIZES)]) for i in range(count)]


def save(path: Path, image: np.ndarray) -> None:
    """Writes an RGB or grey uint8 picture; the suffix decides the format (JPEG at quality 95)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def write_mvtec(root: Path, seed: int, normal: int, defective: int) -> None:
    """MVTec AD's layout: CATEGORY/train/good, test/KIND/NNN.png, ground_truth/KIND/NNN_mask.png (0 and
    255)."""
    for category, product in MVTEC.items():
        folder = root / category
        for split in ("train", "test"):
            for index in range(normal):
                image = draw_normal(product, seed, f"{category}/{split}/{index}")
                save(folder / split / "good" / f"{index:03d}.png", image)
        numbers = dict.fromkeys(product.defects, 0)
        for index, (kind, size) in enumerate(defect_list(product, defective)):
            image, mask = draw_defective(product, seed, f"{category}/{kind}/{index}", kind, size)
            save(folder / "test" / kind / f"{numbers[kind]:03d}.png", image)
            save(
                folder / "ground_truth" / kind / f"{numbers[kind]:03d}_mask.png", mask.astype(np.uint8) * 255
            )
            numbers[kind] += 1


def write_visa(root: Path, seed: int, normal: int, defective: int) -> None:
    """VisA's layout: CATEGORY/Data/{Images/Normal,Images/Anomaly,Masks/Anomaly} and split_csv/1cls.csv.

    A mask's value is the number of the defect's kind, from 1 in the order of the product's list.
    """
    rows = []
    for category, product in VISA.items():
        for index in range(2 * normal):
            split = "train" if index < normal else "test"
            path = f"{category}/Data/Images/Normal/{index:04d}.JPG"
            save(root / path, draw_normal(product, seed, f"{category}/{split}/{index}"))
            rows.append((category, split, "normal", path, ""))
        numbers = {kind: number for number, kind in enumerate(product.defects, 1)}
        for index, (kind, size) in enumerate(defect_list(product, defective)):
            image, mask = draw_defective(product, seed, f"{category}/{kind}/{index}", kind, size)
            path = f"{category}/Data/Images/Anomaly/{index:03d}.JPG"
            mask_path = f"{category}/Data/Masks/Anomaly/{index:03d}.png"
            save(root / path, image)
            save(root / mask_path, mask.astype(np.uint8) * numbers[kind])
            rows.append((category, "test", "anomaly", path, mask_path))
    (root / "split_csv").mkdir(parents=True, exist_ok=True)
    with open(root / "split_csv" / "1cls.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("object", "split", "label", "image", "mask"), *rows]
        )


def write_demo(folder: Path, seed: int = 0, normal: int = 12, defective: int = 20) -> bool:
    """Draws both datasets into `folder`, all or nothing; False if the very same are already there.

    Per category: `normal` normal images for training and as many for test, and `defective` defective ones.
    Drawn into a temporary folder next to it, which takes its name when complete. Raises FileExistsError if
    `folder` is not a demo.
    """
    settings = {"version": VERSION, "seed": seed, "normal": normal, "defective": defective}
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise FileExistsError(
                f"{folder} is not empty and has no {MARKER}: name another folder or empty this one"
            )
        if json.loads((folder / MARKER).read_text()) == settings:
            return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent
    ) as temporary:
        fresh = Path(temporary) / "demo"
        write_mvtec(fresh / "mvtec", seed, normal, defective)
        write_visa(fresh / "visa", seed, normal, defective)
        (fresh / MARKER).write_text(json.dumps(settings, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Draws the demo, unless it is there already; returns the exit code."""
    parser = CommandLine(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent / "demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        drawn = write_demo(options.folder, options.seed)
    except OSError as error:
        put_line(f"demo: {error}", sys.stderr)
        return 2
    put_line(
        f"{'drew' if drawn else 'already there:'} {options.folder}/mvtec ({', '.join(MVTEC)}) "
        f"and {options.folder}/visa ({', '.join(VISA)}), seed {options.seed}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
