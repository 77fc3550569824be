"""Speed of OpenCV and of scikit-image at what the product does with 8-connected regions, and whether both
agree.

    python benchmarks/regions.py [--sides 240 518 1024] [--repeats 7] [--real] [--json FILE]

Three tasks: the area of each defect pixel's region (the metric PRO, fdsl/metrics/pixel_scores.py); box and
area of every region of a map above a level (fdsl/boxes.py); box and area of the one region around a pixel
(the same). The maps are random coarse grids, upsampled bilinearly as anomaly maps are. The masks are such
maps above their highest 5 %, noise of which half is set, and with --real bottle's masks at their own 900 px,
if ../shared has them. One thread, CPU milliseconds, the median of --repeats runs in turn; then the seconds
that a fresh process takes to import what it needs. Ends with exit code 1 where the two disagree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage
from skimage.measure import label, regionprops
from skimage.segmentation import flood
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from fdsl.evaluation import upsample_maps  # noqa: E402
from fdsl.metrics.pixel_scores import region_areas  # noqa: E402

REAL_MASKS = ROOT.parent / "shared/data/mvtec/bottle/ground_truth"
GRID, LEVEL = 37, 0.95  # patches along a side; the share of pixels below the level
IMPORTS = (
    "import numpy, torch, cv2",
    "import numpy, torch; from skimage.measure import label, regionprops; from skimage.segmentation import "
    "flood",
    "import numpy, torch",
)
Boxes = list[tuple[int, ...]]  # left, top, width, height, area


def main() -> int:
    args = parse_args()
    cv2.setNumThreads(1)
    rows = []
    for side in args.sides:
        hot = hot_regions(side)
        rows.append(measured(f"areas, {side} px, blobs", args.repeats, areas_cv2, areas_skimage, hot))
        noise = np.random.default_rng(1).random((side, side)) < 0.5
        rows.append(measured(f"areas, {side} px, noise", args.repeats, areas_cv2, areas_skimage, noise))
        rows.append(measured(f"boxes, {side} px", args.repeats, boxes_cv2, boxes_skimage, hot))
        rows.append(measured(f"one region, {side} px", args.repeats, around_cv2, around_skimage, hot))
    for name, mask in real_masks() if args.real else ():
        rows.append(measured(f"areas, {name}", args.repeats, areas_cv2, areas_skimage, mask))
    show(rows)
    imports = {what: seconds_to_import(what, args.repeats) for what in IMPORTS}
    print("".join(f"\n{seconds:.2f} s: {what}" for what, seconds in imports.items()))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "imports": imports}, indent=1) + "\n")
    return 0 if all(row["equal"] for row in rows) else 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[240, 518, 1024], metavar="PX")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--real", action="store_true", help="also bottle's own masks")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def hot_regions(side: int) -> np.ndarray:
    """(side,side) bool: an anomaly map's highest pixels, a few smooth regions."""
    maps = np.random.default_rng(0).random((1, GRID, GRID), dtype=np.float32) ** 4
    large = upsample_maps(maps, side)[0]
    return large >= np.quantile(large, LEVEL)


def real_masks() -> list[tuple[str, np.ndarray]]:
    """The first mask of each of bottle's defects."""
    files = [next(iter(sorted(folder.glob("*.png")))) for folder in sorted(REAL_MASKS.glob("*/"))]
    masks = [(file.parent.name, cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) > 0) for file in files]
    return [(f"{mask.shape[0]} px, {name}", mask) for name, mask in masks]


def areas_cv2(mask: np.ndarray) -> np.ndarray:
    return region_areas(mask)


def areas_skimage(mask: np.ndarray) -> np.ndarray:
    labels = label(mask, connectivity=2)[mask]
    return np.bincount(labels).astype(np.int32)[labels]


def boxes_cv2(mask: np.ndarray) -> Boxes:
    stats = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)[2]
    return sorted(tuple(map(int, row)) for row in stats[1:])


def boxes_skimage(mask: np.ndarray) -> Boxes:
    regions = regionprops(label(mask, connectivity=2))
    corners = [(*region.bbox, int(region.area)) for region in regions]
    return sorted((left, top, right - left, low - top, area) for top, left, low, right, area in corners)


def first_pixel(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the middle one of the mask's pixels, in reading order."""
    rows, columns = mask.nonzero()
    return int(rows[len(rows) // 2]), int(columns[len(rows) // 2])


def around_cv2(mask: np.ndarray) -> Boxes:
    row, column = first_pixel(mask)
    area, *_, box = cv2.floodFill(mask.astype(np.uint8), None, (column, row), 2, flags=8)
    return [(*map(int, box), int(area))]


def around_skimage(mask: np.ndarray) -> Boxes:
    region = flood(mask, first_pixel(mask), connectivity=2)
    rows, columns = region.any(1).nonzero()[0], region.any(0).nonzero()[0]
    width, height = int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)
    return [(int(columns[0]), int(rows[0]), width, height, int(region.sum()))]


def measured(
    what: str, repeats: int, ours: Callable[[Any], Any], other: Callable[[Any], Any], mask: np.ndarray
) -> dict[str, Any]:
    """Milliseconds of both, one after the other each time, and whether they give the same."""
    equal = np.array_equal(ours(mask), other(mask))
    seconds: dict[Any, list[float]] = {ours: [], other: []}
    for _ in range(repeats):
        for function, spent in seconds.items():
            start = time.process_time()
            function(mask)
            spent.append(time.process_time() - start)
    opencv, scikit = (1000 * statistics.median(spent) for spent in seconds.values())
    regions = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[0] - 1
    row = {"what": what, "regions": regions, "opencv_ms": opencv, "skimage_ms": scikit}
    return {**row, "ratio": scikit / opencv, "equal": equal}


def seconds_to_import(statement: str, repeats: int) -> float:
    """CPU seconds of a fresh process that runs an import statement, the median of `repeats`."""
    code = f"{statement}; import time; print(time.process_time())"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(repeats)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def show(rows: list[dict[str, Any]]) -> None:
    print(f"OpenCV {cv2.__version__}, scikit-image {skimage.__version__}, one thread, CPU milliseconds")
    headers = ("what", "regions", "OpenCV", "scikit-image", "ratio", "equal")
    table = [(*list(row.values())[:-1], "yes" if row["equal"] else "NO") for row in rows]
    print(tabulate(table, headers, tablefmt="github", floatfmt=("", "d", ".2f", ".2f", ".1f", "")))


if __name__ == "__main__":
    sys.exit(main())
