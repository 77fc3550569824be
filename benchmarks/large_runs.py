"""What a large run costs beside its photographs: joining the blocks of several processes, listing the files.

    python benchmarks/large_runs.py join      # 1,000 blocks of 1,000 drawn rows, and a tenth of them
    python benchmarks/large_runs.py list      # a million empty files in a folder of folders

Prints seconds, and the largest memory before and after. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.watched import peak_bytes
from data.manifest import Listed, Manifest, Spool, listed
from fdsl.run_config import FittedConfig, PredictionConfig, RunConfig
from fdsl.store.blocks import Blocks
from fdsl.store.prediction_folder import PredictionFolder
from tests.support.run_config import a_config


def drawn_row(number: int, score: float) -> dict:
    return {
        "image": f"line {number // 5000:03}/{number:07}.png",
        "score": score,
        "base_score": score,
        "window_score": None,
        "normal_percentile": None,
        "threshold": 0.9,
        "anomalous": score > 0.9,
        "boxes": [{"x": 1, "y": 2, "width": 3, "height": 4, "area": 12, "peak": score}]
        if score > 0.9
        else [],
        "width": 1024,
        "height": 1024,
        "grid": 28,
        "picture": None,
        "file": {"bytes": 10**6, "modified": 10**18, "digest": "0123456789abcdef"},
    }


def draw_blocks(folder: Path, blocks: int, length: int) -> Blocks:
    """Finished blocks of drawn rows, as processes leave them."""
    partial, generator = folder / ".partial", np.random.default_rng(0)
    partial.mkdir(parents=True)
    names = (Listed(drawn_row(number, 0.0)["image"], Path("x.png")) for number in range(blocks * length))
    manifest = Manifest.write(partial, names, [], 4)
    found = Blocks(manifest, keep_maps=False)
    number = 0
    for block in range(len(manifest)):
        with found.writing(block) as written:
            for score in generator.random(min(manifest.length, manifest.count - number)).tolist():
                written.add(drawn_row(number, score), np.empty(0), None)
                number += 1
    return found


def joined(folder: Path, blocks: int, length: int) -> None:
    """Joins drawn blocks; prints seconds and memory."""
    drawn = draw_blocks(folder, blocks, length)
    fitted = FittedConfig(RunConfig.from_json(a_config(14)).detector, "max")
    config = PredictionConfig(fitted, "", None, "drawn")
    before, begun = peak_bytes(os.getpid()), time.monotonic()
    output = PredictionFolder(folder, config, in_blocks=True)
    output.take(drawn)
    totals = output.finish(28)
    seconds = time.monotonic() - begun
    assert totals.scored == blocks * length and totals.scored == sum(1 for _ in open(folder / "scores.jsonl"))
    after = peak_bytes(os.getpid())
    print(
        f"{len(drawn.manifest)} blocks, {totals.scored:,} rows: joined in {seconds:.1f} s, "
        f"memory {before / 2**20:.0f} to {after / 2**20:.0f} MiB",
        flush=True,
    )


def in_a_process(words: list[str]) -> None:
    """A part of this benchmark by itself, so that its memory is its own."""
    subprocess.run([sys.executable, __file__, *words], check=True)


def list_files(folder: Path, count: int) -> None:
    """Lists a folder of folders; prints seconds and memory."""
    for number in range(count):
        if number % 10_000 == 0:
            place = folder / f"{number // 10_000:04}"
            place.mkdir(parents=True)
        os.close(os.open(place / f"{number:08}.png", os.O_CREAT))
    before, begun = peak_bytes(os.getpid()), time.monotonic()
    spool = Spool(listed([folder]))
    assert spool.count == sum(1 for _ in spool) == count
    seconds, after = time.monotonic() - begun, peak_bytes(os.getpid())
    print(
        f"{count:,} files listed and read again in {seconds:.1f} s, memory {before / 2**20:.0f} to "
        f"{after / 2**20:.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("join", "list", "one-join"))
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--length", type=int, default=1000, help="rows of a block (default 1000)")
    parser.add_argument("--count", type=int, default=10**6, help="files to list (default 1,000,000)")
    args = parser.parse_args()
    if args.what == "join":
        for blocks in (args.blocks // 10, args.blocks):
            in_a_process(["one-join", "--blocks", str(blocks), "--length", str(args.length)])
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "one-join":
            joined(Path(folder), args.blocks, args.length)
        else:
            list_files(Path(folder), args.count)


if __name__ == "__main__":
    main()
