"""Speed and memory of the pixel metrics compared with scikit-learn's three calls and the common PRO loop.

    python benchmarks/metrics.py [--real]
    python benchmarks/metrics.py stream [--images 3700] [--exact]

All on one thread. The maps are random coarse grids that know something of the masks, upsampled bilinearly;
three quarters of the images are defective, as in MVTec AD's bottle. --real takes bottle's own masks, if
../shared has them. Seconds are CPU seconds, so that other work on the machine does not count; ours are the
median of five runs and count everything: labelling, sorting, all four metrics. The common loop steps 200
thresholds from the lowest score to the highest and labels every mask anew at each. stream: one image of 518
px after the other, in bounded memory and with --exact (8 GB) every score kept.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.measure import label, regionprops
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score
from tabulate import tabulate
from threadpoolctl import threadpool_limits

if __name__ == "__main__":  # run as a script: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fdsl.metrics.exact import PixelMetrics

REAL_MASKS = Path(__file__).resolve().parents[2] / "shared/data/mvtec/bottle/ground_truth"
SIZES = 240, 518  # pixels along a side of the maps; the last one is streamed
IMAGES, DEFECTIVE = 83, 63  # as many as bottle has
THRESHOLDS = 200


def images(count: int, size: int, masks: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` maps (size, size) float32 in 0..1 and bool masks: the given ones, or random blobs where there
    are none; the rest are normal."""
    rng = np.random.default_rng(14)
    grid = 28 if size < 448 else 37
    for index in range(count):
        if index >= (len(masks) or count * DEFECTIVE // IMAGES):
            mask = np.zeros((size, size), bool)
        elif masks:
            mask = masks[index]
        else:
            blobs = rng.random((10, 10), dtype=np.float32)
            mask = cv2.resize(blobs, (size, size), interpolation=cv2.INTER_CUBIC) > 0.92
        hint = cv2.resize(mask.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
        coarse = np.clip(rng.beta(1.2, 12, (grid, grid)) + 0.6 * rng.random() * hint, 0, 1).astype(np.float32)
        yield cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR), mask


def ours(scores: np.ndarray, masks: np.ndarray) -> dict[str, float | None]:
    metrics = PixelMetrics()
    for score, mask in zip(scores, masks):
        metrics.update(score, mask)
    return metrics.compute()


def three_calls(scores: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    labels, flat = masks.ravel(), scores.ravel()
    precision, recall, _ = precision_recall_curve(labels, flat)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    auroc, ap = roc_auc_score(labels, flat), average_precision_score(labels, flat)
    return {"auroc_px": float(auroc), "f1_px": float(f1.max()), "ap_px": float(ap)}


def common_pro(scores: np.ndarray, masks: np.ndarray) -> float:
    """PRO as method repositories compute it: 200 even thresholds, every image's regions at each, FPR
    rescaled."""
    lowest, highest = scores.min(), scores.max()
    normal, overlaps, rates = ~masks, [], []
    for threshold in np.arange(lowest, highest, (highest - lowest) / THRESHOLDS):
        predicted = scores > threshold
        regions = [(image, region) for image, mask in enumerate(masks) for region in regionprops(label(mask))]
        found = [predicted[image][tuple(one.coords.T)].sum() / one.area for image, one in regions]
        rates.append(np.logical_and(normal, predicted).sum() / normal.sum())
        overlaps.append(np.mean(found))
    inside = np.array(rates) < 0.3
    rates, overlaps = np.array(rates)[inside], np.array(overlaps)[inside]
    return float(auc((rates - rates.min()) / (rates.max() - rates.min()), overlaps))


def timed(work: Callable[[], Any], repeats: int = 1) -> tuple[Any, float]:
    """The result and the median CPU time in seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return result, float(np.median(seconds))


def compare(size: int, count: int, real: bool) -> None:
    given = [
        cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in sorted(REAL_MASKS.rglob("*.png")) if real
    ]
    if real and not given:
        sys.exit(f"--real: no masks in {REAL_MASKS}; leave the flag out")
    known = [cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA) > 127 for mask in given[:count]]
    scores, masks = map(np.stack, zip(*images(count, size, known)))
    exact, fast = timed(lambda: ours(scores, masks), repeats=5)
    plain, calls = timed(lambda: three_calls(scores, masks))
    pro, loop = timed(lambda: common_pro(scores, masks))
    works = {"ours, all four, exact": fast, "scikit-learn, three calls": calls, "common PRO loop": loop}
    rows = [[name, taken, taken / fast] for name, taken in {**works, "both of them": calls + loop}.items()]
    print(f"\n{count} images of {size} px, {masks.mean():.1%} of the pixels anomalous")
    print(tabulate(rows, headers=["", "CPU seconds", "times ours"], floatfmt=(None, ".3f", ".1f")))
    difference = max(abs(exact[name] - value) for name, value in plain.items())
    print(f"AUROC, F1-max, AP: within {difference:.1e} of scikit-learn")
    print(f"PRO: {exact['aupro']:.4f} over all thresholds, {pro:.4f} from the common loop")


def stream(count: int, exact: bool) -> None:
    """One image after the other; the peak is that of this whole process, imports and images included."""
    found, size = [], SIZES[-1]
    for metrics in (PixelMetrics(), PixelMetrics(1 << 62))[: 1 + exact]:  # in this order: the peak only grows
        seconds = 0.0
        for score, mask in images(count, size, []):
            start = time.process_time()
            metrics.update(score, mask)
            seconds += time.process_time() - start
        values, last = timed(metrics.compute)
        peak, what = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
            ("bounded", "exact")[len(found)],
        )
        print(f"{count} images of {size} px, {what}: {peak:.0f} MiB, {seconds + last:.1f} CPU seconds")
        found.append([values[name] for name in ("auroc_px", "f1_px", "ap_px", "aupro")])
    if exact:
        print(f"largest difference of the four metrics: {np.abs(np.subtract(*found)).max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("compare", "stream"), default="compare")
    parser.add_argument("--images", type=int, help=f"default {IMAGES}; of stream 3700")
    parser.add_argument("--real", action="store_true", help="masks of MVTec AD's bottle from ../shared")
    parser.add_argument("--exact", action="store_true", help="stream again, every score kept, and compare")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        if args.what == "stream":
            stream(args.images or 3700, args.exact)
        else:
            for size in SIZES:
                compare(size, args.images or IMAGES, args.real)


if __name__ == "__main__":
    main()
