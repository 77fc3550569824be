"""Speed and memory of the pixel metrics compared with scikit-learn's three calls and the common PRO loop.

    python benchmarks/metrics.py [--sizes 240 518] [--images 83] [--real]
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
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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
THRESHOLDS = 200
STREAM_SIZE = 518
STREAMED, COMPARED = 3700, 83  # images


def images(
    count: int, size: int, masks: list[np.ndarray] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` maps (size, size) float32 in 0..1 and bool masks: the given ones, or random blobs; the rest are
    good."""
    rng = np.random.default_rng(14)
    grid = 28 if size < 448 else 37
    defective = count * 63 // 83 if masks is None else len(masks)
    for index in range(count):
        if index >= defective:
            mask = np.zeros((size, size), bool)
        elif masks is None:
            blobs = rng.random((10, 10), dtype=np.float32)
            mask = cv2.resize(blobs, (size, size), interpolation=cv2.INTER_CUBIC) > 0.92
        else:
            mask = masks[index]
        hint = cv2.resize(mask.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
        coarse = np.clip(rng.beta(1.2, 12, (grid, grid)) + 0.6 * rng.random() * hint, 0, 1).astype(np.float32)
        yield cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR), mask


def real_masks(size: int) -> list[np.ndarray]:
    files = sorted(REAL_MASKS.rglob("*.png"))
    if not files:
        sys.exit(f"--real: no masks in {REAL_MASKS}; leave the flag out")
    photos = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    return [cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA) > 127 for photo in photos]


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


def timed(work: Callable, repeats: int = 1) -> tuple:
    """The result and the median CPU time in seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return result, statistics.median(seconds)


def compare(size: int, count: int, real: bool) -> None:
    pairs = list(images(count, size, real_masks(size)[:count] if real else None))
    scores, masks = np.stack([score for score, _ in pairs]), np.stack([mask for _, mask in pairs])
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
    several = [PixelMetrics(), PixelMetrics(1 << 62)] if exact else [PixelMetrics()]
    found = []
    for what, metrics in zip(("bounded", "exact"), several):  # the smaller one first, for the peak only grows
        seconds = 0.0
        for score, mask in images(count, STREAM_SIZE):
            start = time.process_time()
            metrics.update(score, mask)
            seconds += time.process_time() - start
        values, last = timed(metrics.compute)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"{count} images of {STREAM_SIZE} px, {what}: {peak:.0f} MiB, {seconds + last:.1f} CPU seconds")
        found.append([values[name] for name in ("auroc_px", "f1_px", "ap_px", "aupro")])
    if exact:
        print(f"largest difference of the four metrics: {np.abs(np.subtract(*found)).max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("compare", "stream"), default="compare")
    parser.add_argument("--sizes", type=int, nargs="+", default=[240, 518], help="of the maps, in pixels")
    parser.add_argument("--images", type=int, help=f"default {COMPARED}; of stream {STREAMED}")
    parser.add_argument("--real", action="store_true", help="masks of MVTec AD's bottle from ../shared")
    parser.add_argument("--exact", action="store_true", help="stream again, every score kept, and compare")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        if args.what == "stream":
            stream(args.images or STREAMED, args.exact)
        else:
            for size in args.sizes:
                compare(size, args.images or COMPARED, args.real)


if __name__ == "__main__":
    main()
