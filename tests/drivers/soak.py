"""Many predictions through one process: memory and open files must stay flat.

    python tests/drivers/soak.py                     # 20,000 predictions of small photographs
    python tests/drivers/soak.py --count 2000        # the short version

Photographs come from files, as in production. After a tenth of the predictions (everything is warm then) the
resident memory and the open files are noted; they are measured ten more times, and growth beyond the limits
ends with exit code 1. It measures the process, not the model: the backbone is tiny and untrained.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from fdsl.api import AnomalyDetector

MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
}
PHOTOGRAPHS = 50
MEASUREMENTS = 10
MEMORY_LIMIT = 0.05  # of the resident memory after the warm-up, either way
BATCH = 8


def resident_bytes() -> int:
    """The process's resident memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def make_detector(folder: Path) -> AnomalyDetector:
    """A detector without training, with windows, fitted to two of the folder's photographs."""
    (folder / "ViT-soak.json").write_text(json.dumps(MODEL))
    detector = AnomalyDetector.from_backbone(
        model="ViT-soak",
        pretrained="none",
        model_config=str(folder),
        layers=[1, 3],
        image_size=32,
        device="cpu",
        precision="fp32",
        win_size=2,
        win_stride=2,
    )
    detector.fit([folder / "0.png", folder / "1.png"])
    return detector


def draw_photographs(folder: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.png" for number in range(PHOTOGRAPHS)]
    for file in files:
        side = generator.integers(24, 64, 2)
        Image.fromarray(generator.integers(0, 255, (*side, 3), dtype=np.uint8)).save(file)
    return files


def soak(detector: AnomalyDetector, files: list[Path], count: int) -> list[tuple[int, float, int, int]]:
    """Rows (predictions so far, seconds, resident bytes, open files): the first after the warm-up, then ten
    more."""
    rows, done, begun = [], 0, time.monotonic()
    marks = [count // 10 + count * 9 // 10 * step // MEASUREMENTS for step in range(MEASUREMENTS + 1)]
    for mark in marks:
        while done < mark:
            wanted = [files[(done + index) % len(files)] for index in range(min(BATCH, mark - done))]
            found = list(detector.stream(wanted, batch_size=BATCH))
            assert len(found) == len(wanted) and all(np.isfinite(one.score) for one in found)
            assert found[0].anomaly_map.shape == found[0].size[::-1]
            done += len(wanted)
        gc.collect()
        rows.append((done, time.monotonic() - begun, resident_bytes(), open_files()))
        print(
            f"{done:>7} predictions  {rows[-1][1]:7.1f} s  {rows[-1][2] / 2**20:7.1f} MiB  "
            f"{rows[-1][3]} open files",
            flush=True,
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000, help="predictions (default 20,000)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        files = draw_photographs(Path(folder))
        rows = soak(make_detector(Path(folder)), files, max(args.count, 100))
    first = rows[0]
    change = max((row[2] / first[2] - 1 for row in rows[1:]), key=abs)
    more_files = max(row[3] for row in rows) - first[3]
    flat = abs(change) <= MEMORY_LIMIT and more_files <= 0
    print(
        f"memory {change:+.1%} at most against that after {first[0]} predictions (limit {MEMORY_LIMIT:.0%}), "
        f"open files {more_files:+d}: {'flat' if flat else 'NOT FLAT'}"
    )
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
