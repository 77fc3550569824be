"""Speed and memory of the pixel metrics against scikit-learn's three calls and the common PRO loop, in one
run.

    python benchmarks/metrics.py [--sizes 240 518] [--images 83] [--stream 3700] [--exact-stream] [--real]
    [--json FILE]

All on one thread. The maps are random coarse grids that know something of the masks, upsampled bilinearly;
three quarters of the images are defective, as in MVTec AD's bottle. --real takes bottle's own masks, if
../shared has them. Seconds are CPU seconds, so that other work on the machine does not count; ours are the
median of five runs. The common loop steps 200 thresholds from the lowest score to the highest and labels
every mask anew at each; the same loop with the masks labelled once is shown beside it. Ours counts
everything: labelling, sorting, all four metrics.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sklearn
from skimage.measure import label, regionprops
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score
from tabulate import tabulate
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from fdsl.metrics.exact import PixelMetrics  # noqa: E402

REAL_MASKS = ROOT.parent / "shared/data/mvtec/bottle/ground_truth"
THRESHOLDS = 200
STREAM_SIZE = 518
MIB = 2**20


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        if args.child:
            print(json.dumps(stream(args.stream, args.memory_pixels)))
            return
        results: dict[str, Any] = {"machine": machine(), "stream": {}, "speed": []}
        if args.stream:  # first, while this process is small
            results["stream"] = measure_stream(args.stream, args.exact_stream)
        for size in args.sizes:
            results["speed"].append(measure_speed(size, args.images, args.real))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[240, 518], help="sides of the maps in pixels"
    )
    parser.add_argument("--images", type=int, default=83, help="images in the speed comparison")
    parser.add_argument(
        "--stream", type=int, default=3700, help=f"images of {STREAM_SIZE} px streamed; 0 skips it"
    )
    parser.add_argument(
        "--exact-stream", action="store_true", help="stream again, held exactly (8 GB), and compare"
    )
    parser.add_argument("--real", action="store_true", help="masks of MVTec AD's bottle from ../shared")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory-pixels", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


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
            blobs = cv2.resize(
                rng.random((10, 10), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC
            )
            mask = blobs > 0.92
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
    auroc = roc_auc_score(labels, flat)
    ap = average_precision_score(labels, flat)
    precision, recall, _ = precision_recall_curve(labels, flat)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {"auroc_px": float(auroc), "f1_px": float(f1.max()), "ap_px": float(ap)}


def common_pro(scores: np.ndarray, masks: np.ndarray, label_once: bool = False) -> dict[str, float]:
    """PRO as method repositories compute it: 200 even thresholds, every image's regions at each, FPR
    rescaled."""
    lowest, highest = scores.min(), scores.max()
    kept = [regionprops(label(mask)) for mask in masks] if label_once else None
    normal = ~masks
    overlaps, rates = [], []
    for threshold in np.arange(lowest, highest, (highest - lowest) / THRESHOLDS):
        predicted = scores > threshold
        per_region = []
        for index in range(len(masks)):
            regions = kept[index] if kept else regionprops(label(masks[index]))
            for region in regions:
                rows, columns = region.coords[:, 0], region.coords[:, 1]
                per_region.append(predicted[index][rows, columns].sum() / region.area)
        rates.append(np.logical_and(normal, predicted).sum() / normal.sum())
        overlaps.append(np.mean(per_region))
    rates, overlaps = np.array(rates), np.array(overlaps)
    inside = rates < 0.3
    rates, overlaps = rates[inside], overlaps[inside]
    rates = (rates - rates.min()) / (rates.max() - rates.min())
    return {"aupro": float(auc(rates, overlaps))}


def timed(function: Callable[[], dict], repeats: int = 1) -> tuple[dict, float]:
    """The result and the median CPU time in seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return result, statistics.median(seconds)


def measure_speed(size: int, count: int, real: bool) -> dict[str, Any]:
    pairs = list(images(count, size, real_masks(size)[:count] if real else None))
    scores, masks = np.stack([score for score, _ in pairs]), np.stack([mask for _, mask in pairs])
    exact, fast = timed(lambda: ours(scores, masks), repeats=5)
    plain, calls = timed(lambda: three_calls(scores, masks))
    common, loop = timed(lambda: common_pro(scores, masks))
    _, loop_once = timed(lambda: common_pro(scores, masks, label_once=True))
    totals = {
        "scikit-learn + common loop": calls + loop,
        "scikit-learn + loop, labelled once": calls + loop_once,
    }
    rows = [["ours, all four, exact", fast, 1.0], ["scikit-learn, three calls", calls, calls / fast]]
    rows += [
        ["common PRO loop", loop, loop / fast],
        ["PRO loop, masks labelled once", loop_once, loop_once / fast],
    ]
    rows += [[name, seconds, seconds / fast] for name, seconds in totals.items()]
    difference = max(abs(exact[name] - value) for name, value in plain.items())
    kind = "bottle" if real else "random"
    print(f"\n{count} images of {size} px, {masks.mean():.1%} of the pixels anomalous, {kind} masks")
    print(tabulate(rows, headers=["", "CPU seconds", "times ours"], floatfmt=(None, ".3f", ".1f")))
    print(f"AUROC, F1-max, AP: within {difference:.1e} of scikit-learn")
    print(f"PRO: {exact['aupro']:.4f} over all thresholds, {common['aupro']:.4f} from the common loop")
    return {
        "size": size, "images": count, "real_masks": real, "anomalous_share": float(masks.mean()),
        "cpu_seconds": {name: seconds for name, seconds, _ in rows},
        "times_ours": {name: ratio for name, _, ratio in rows}, "difference_to_sklearn": difference,
        "ours": exact, "scikit-learn": plain, "common_loop": common,
    }  # fmt: skip


def measure_stream(count: int, exact_too: bool) -> dict[str, Any]:
    bounded = run_child(count, None)
    print(f"{count} images of {STREAM_SIZE} px streamed, {bounded['pixels'] / 1e6:.0f} million pixels")
    rows = [["bounded", bounded["peak_mib"], bounded["seconds"]]]
    result = {"images": count, "size": STREAM_SIZE, "bounded": bounded}
    if exact_too:
        exact = result["exact"] = run_child(count, 1 << 62)
        rows.append(["exact", exact["peak_mib"], exact["seconds"]])
        differences = [abs(exact["metrics"][name] - value) for name, value in bounded["metrics"].items()]
        result["difference"] = max(differences[:4])  # the four metrics; the fifth is the threshold
    print(
        tabulate(
            rows, headers=["scores held", "peak memory, MiB", "CPU seconds"], floatfmt=(None, ".0f", ".1f")
        )
    )
    if exact_too:
        print(f"largest difference of the four metrics: {result['difference']:.1e}")
    return result


def run_child(count: int, memory_pixels: int | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", "--stream", str(count)]
    command += [] if memory_pixels is None else ["--memory-pixels", str(memory_pixels)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def stream(count: int, memory_pixels: int | None) -> dict[str, Any]:
    """Feed `count` images one by one; the peak is that of this whole process, imports and drawn images
    included."""
    metrics = PixelMetrics() if memory_pixels is None else PixelMetrics(memory_pixels)
    seconds, pixels = 0.0, 0
    for score, mask in images(count, STREAM_SIZE):
        start = time.process_time()
        metrics.update(score, mask)
        seconds += time.process_time() - start
        pixels += score.size
    values, last = timed(metrics.compute)
    return {"pixels": pixels, "seconds": seconds + last, "peak_mib": peak_bytes() / MIB, "metrics": values}


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage can report the parent's peak after a fork
        return next(
            int(line.split()[1]) * 1024
            for line in status.read_text().splitlines()
            if line.startswith("VmHWM")
        )
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def machine() -> dict[str, str]:
    return {
        "processor": platform.processor() or platform.machine(), "python": platform.python_version(),
        "numpy": np.__version__, "opencv": cv2.__version__, "scikit-learn": sklearn.__version__,
    }  # fmt: skip


if __name__ == "__main__":
    main()
