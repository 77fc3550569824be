"""Renders two small inspection datasets, so that the whole system runs without a download:
`python data/demo.py [DIR]`.

DIR/mvtec has MVTec AD's layout (a woven fabric, a steel gear), DIR/visa has VisA's (leather). The products
are rendered (data/demo_products.py), the defects are synthetic (data/augment.py).
"""

import csv
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.augment import add_defect  # noqa: E402
from data.demo_products import develop, expose, fabric, gear, leather  # noqa: E402
from data.records import stable_seed  # noqa: E402
from utils.command_line import CommandLine  # noqa: E402
from utils.console import put_line  # noqa: E402

VERSION = 4  # raised when the images change: older folders are made anew
MARKER = "demo.json"  # written last; a folder without it is not a finished demo
MVTEC, VISA = {"fabric": fabric, "gear": gear}, {"leather": leather}
SIDE = 320  # pixels of an image
COLOURS = ((120, 50, 20), (20, 22, 40), (235, 230, 215))  # of defects: rust, ink and paint
CLEAR, CLEAR_PIXELS = 60, 400  # a defect changes so many grey levels in so many pixels


def normal_image(category: str, split: str, seed: int, number: int) -> np.ndarray:
    """A photograph (SIDE,SIDE,3) uint8 RGB without a defect; `split`: train or test."""
    rng = np.random.default_rng(stable_seed("demo", category, split, seed, number))
    piece = (MVTEC | VISA)[category](rng, (SIDE, SIDE))
    return develop(expose(piece, rng), rng)


def defective_image(category: str, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A test photograph (SIDE,SIDE,3) uint8 RGB with a defect, and its mask (SIDE,SIDE) bool."""
    pixels = torch.from_numpy(normal_image(category, "test", seed, 1000 + number)).permute(2, 0, 1)
    colour = torch.tensor(COLOURS[number % len(COLOURS)], dtype=torch.uint8)[:, None, None].expand_as(pixels)
    generator = torch.Generator().manual_seed(stable_seed("demo", category, seed, number))
    while True:
        image, mask = add_defect(pixels, colour, generator)
        change = (image.float() - pixels.float()).abs().mean(0)
        if (change > CLEAR).sum() >= CLEAR_PIXELS:
            return image.permute(1, 2, 0).numpy(), mask[0].numpy() > 0


def save(path: Path, image: np.ndarray) -> None:
    """Writes an RGB or grey uint8 picture; the suffix decides the format (JPEG at quality 95)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def write_mvtec(root: Path, seed: int, normal: int, defective: int) -> None:
    """MVTec AD's layout: CATEGORY/train/good, test/KIND/NNN.png, ground_truth/KIND/NNN_mask.png (0 and
    255)."""
    for category in MVTEC:
        folder = root / category
        for split in ("train", "test"):
            for number in range(normal):
                image = normal_image(category, split, seed, number)
                save(folder / split / "good" / f"{number:03d}.png", image)
        for number in range(defective):
            image, mask = defective_image(category, seed, number)
            save(folder / "test/defect" / f"{number:03d}.png", image)
            save(folder / "ground_truth/defect" / f"{number:03d}_mask.png", mask.astype(np.uint8) * 255)


def write_visa(root: Path, seed: int, normal: int, defective: int) -> None:
    """VisA's layout: CATEGORY/Data/{Images/Normal,Images/Anomaly,Masks/Anomaly} and split_csv/1cls.csv. A
    mask's value is 1."""
    rows = [("object", "split", "label", "image", "mask")]
    for category in VISA:
        for index in range(2 * normal):
            split = "train" if index < normal else "test"
            path = f"{category}/Data/Images/Normal/{index:04d}.JPG"
            save(root / path, normal_image(category, split, seed, index))
            rows.append((category, split, "normal", path, ""))
        for index in range(defective):
            image, mask = defective_image(category, seed, index)
            path = f"{category}/Data/Images/Anomaly/{index:03d}.JPG"
            mask_path = f"{category}/Data/Masks/Anomaly/{index:03d}.png"
            save(root / path, image)
            save(root / mask_path, mask.astype(np.uint8))
            rows.append((category, "test", "anomaly", path, mask_path))
    (root / "split_csv").mkdir(parents=True, exist_ok=True)
    with open(root / "split_csv" / "1cls.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_demo(folder: Path, seed: int = 0, normal: int = 12, defective: int = 20) -> bool:
    """Makes both datasets in `folder`, all or nothing; False if the very same are already there.

    Per category: `normal` normal images for training and as many for test, and `defective` defective ones.
    Made in a temporary folder next to it, which takes its name when complete. Raises FileExistsError if
    `folder` is not a demo.
    """
    settings = {"version": VERSION, "seed": seed, "normal": normal, "defective": defective}
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise FileExistsError(f"{folder} is not empty and has no {MARKER}: name another folder")
        if json.loads((folder / MARKER).read_text()) == settings:
            return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent) as place:
        fresh = Path(place) / "demo"
        write_mvtec(fresh / "mvtec", seed, normal, defective)
        write_visa(fresh / "visa", seed, 2 * normal, 2 * defective)  # as many in all, of one category
        (fresh / MARKER).write_text(json.dumps(settings, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Makes the demo, unless it is there already; returns the exit code."""
    parser = CommandLine(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent / "demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        made = write_demo(options.folder, options.seed)
    except OSError as error:
        put_line(f"demo: {error}", sys.stderr)
        return 2
    put_line(
        f"{'made' if made else 'already there:'} {options.folder}/mvtec ({', '.join(MVTEC)}) "
        f"and {options.folder}/visa ({', '.join(VISA)}), seed {options.seed}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
