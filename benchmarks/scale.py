"""Two processes against one, what a photograph costs step by step, and what a large run costs apart from its
photographs.

    python benchmarks/scale.py speed --data DIR [--most 24] --model ... --pretrained FILE --layers ...
    python benchmarks/scale.py parts --data DIR --model ... --pretrained FILE --layers ...
    python benchmarks/scale.py join      # a million made-up rows of eight processes, and a tenth of them
    python benchmarks/scale.py list      # a million empty files in a folder of folders

DATA is a dataset in MVTec AD's layout. speed: test.py, predict.py and train.py, every process with one
thread. The seconds are those of whole commands; those of the same command where all is done already, which
only starts and ends, are printed too. On a machine that others use too the processor's seconds of the busiest
process say more. join, list: seconds, and the largest memory before and after. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.shared import backbone_words, described, encoder_flags, linked, peak_bytes, timed
from data.inputs import list_images
from data.manifest import Listed, listed, read_list, write_list
from data.photographs import read_ahead
from fdsl.api import AnomalyDetector
from fdsl.config.run_config import DetectorConfig, FittedConfig, PredictionConfig
from fdsl.flags.groups import add_options
from fdsl.inspection.score_files import draw, inspected_row
from fdsl.store.journal import Journal
from fdsl.store.prediction_folder import PredictionFolder, rank_journal
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.device import machine_facts

PROCESSES = 8
PLAINLY = ["--precision", "fp32", "--device", "cpu", "--threads", "1"]


def left_in(folder: Path) -> dict[str, bytes]:
    """Path -> content of the maps, rows, metrics and weights that a command has left."""
    kinds = ("*.npz", "scores.*", "metrics.*", "*.safetensors")
    found = sorted(path for kind in kinds for path in folder.rglob(kind))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def speed(args: argparse.Namespace) -> None:
    only, backbone = args.only, [*backbone_words(args), *PLAINLY]
    with tempfile.TemporaryDirectory() as work:
        folder = linked(args.data.resolve(), Path(work) / "data", args.most)
        references = next(folder.glob("*/train/good"))
        made = Path(work) / "detector.safetensors"
        if "predict" in only:
            made_of = ["--references", str(references), "--method", "nearest", "--input"]
            more = ["--format", "json", "--false-alarm-rate", "none", "--save-detector", str(made)]
            first = str(next(references.iterdir()))
            timed("predict", [*made_of, first, *more, *backbone], 1)
        dataset = ["--dataset", "mvtec", "--data-path", str(folder), "--workers", "0"]

        def arguments(name: str, place: Path) -> list[str]:
            if name == "test":
                more = ["--method", "nearest", "--k-shot", "4", "--image-score", "max", "--pictures", "0"]
                return [*dataset, *more, *backbone, "--results", str(place)]
            if name == "predict":
                known = ["--detector", str(made), "--device", "cpu", "--threads", "1", "--workers", "1"]
                return [*known, "--input", str(folder / "*/test"), "--resume", "--output", str(place)]
            return [*dataset, *backbone, "--epochs", "3", "--k-shot", "4", "--checkpoints", str(place)]

        for name in only:
            found = {}
            for processes in (1, 2):
                place = Path(work) / f"{name}-{processes}"
                whole = timed(name, arguments(name, place), processes)
                done = timed(name, arguments(name, place), processes)
                found[processes] = (whole, done)
                print(
                    f"{name}.py, {processes} process(es): {whole.seconds:.1f} s, of them {done.seconds:.1f} "
                    f"to start and end; the busiest {whole.busiest:.1f} and {done.busiest:.1f} processor "
                    f"seconds, {whole.memory:.2f} GiB",
                    flush=True,
                )
            left = left_in(Path(work) / f"{name}-1")
            assert left and left == left_in(Path(work) / f"{name}-2"), "other files"
            (one, one_done), (two, two_done) = found[1], found[2]
            clocks = [one.seconds / two.seconds, one.busiest / two.busiest]
            without = [
                (one.seconds - one_done.seconds) / (two.seconds - two_done.seconds),
                (one.busiest - one_done.busiest) / (two.busiest - two_done.busiest),
            ]
            print(
                f"{name}.py: {clocks[0]:.2f} x by the clock, {without[0]:.2f} x without start and end; by "
                f"processor seconds {clocks[1]:.2f} and {without[1]:.2f} x",
                flush=True,
            )


def parts(args: argparse.Namespace) -> None:
    """What a photograph of the first category costs in one thread, step by step, in the processor's time, and
    what it leaves; medians over every fourth test image."""
    torch.set_num_threads(1)
    detector = AnomalyDetector.from_backbone(device="cpu", precision="fp32", **encoder_flags(args))
    references = next(args.data.glob("*/train/good"))
    detector.fit(references, false_alarm_rate=None)
    photographs = list_images(references.parents[1] / "test")[::4]
    taken: dict[str, list[float]] = {"reading": [], "scoring": [], "picture": [], "row and map": []}
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "pictures").mkdir()
        journal = Journal(Path(work), keep_maps=True)
        for path in photographs:
            with clock(taken["reading"]):
                (loaded,) = read_ahead([(path.name, path)], detector.image_size, 1, 1, stamped=True)
            with clock(taken["scoring"]):
                (found,) = detector.predict_batch(loaded.tensor[None], [loaded.photo.size], [loaded.name])
            row = {**inspected_row(loaded.name, found), "file": loaded.stamp}
            with clock(taken["picture"]):
                row["picture"] = draw(loaded.name, loaded.photo, found, Path(work))
            with clock(taken["row and map"]):
                journal.add(row, found.base_map, found.window_map)
        journal.close()
        sizes = {"photograph": sum(path.stat().st_size for path in photographs)}
        sizes["picture"] = sum(path.stat().st_size for path in (Path(work) / "pictures").iterdir())
        sizes["row"] = (Path(work) / "rows.jsonl").stat().st_size
        sizes["map"] = (Path(work) / "base.f32").stat().st_size
    for name, seconds in taken.items():
        print(f"{name}: {1000 * float(np.median(seconds)):.1f} ms")
    print(", ".join(f"{name} {size / len(photographs) / 1000:.1f} kB" for name, size in sizes.items()))


@contextlib.contextmanager
def clock(taken: list[float]) -> Iterator[None]:
    """Notes the processor's seconds of a block."""
    begun = time.process_time()
    yield
    taken.append(time.process_time() - begun)


def made_up_row(number: int, score: float) -> dict:
    return {
        "image": f"line {number // 5000:03}/{number:07}.png",
        "score": score,
        "base_score": score,
        "window_score": None,
        "normal_percentile": None,
        "threshold": 0.9,
        "anomalous": score > 0.9,
        "reason": None,
        "boxes": [{"x": 1, "y": 2, "width": 3, "height": 4, "area": 12, "peak": score}]
        if score > 0.9
        else [],
        "width": 1024,
        "height": 1024,
        "grid": 28,
        "pixel_threshold": 0.9,
        "regions": [],
        "picture": None,
        "mask": None,
        "file": {"bytes": 10**6, "modified": 10**18, "digest": "0123456789abcdef"},
    }


def joined(folder: Path, count: int) -> None:
    """Joins made-up rows of PROCESSES processes; prints seconds and memory."""
    machine = machine_facts(torch.device("cpu"), torch.float32)
    made = DetectorConfig(
        method="nearest",
        backbone=BackboneConfig(),
        options=MethodConfig(),
        windows=WindowConfig("nan"),
        machine=machine,
    )
    config = PredictionConfig(FittedConfig(made, "max"), "", None, "made up")
    output = PredictionFolder(folder, config)
    scores = np.random.default_rng(0).random(count).tolist()
    with open(output.list, "wb") as file:
        write_list(file, (Listed(made_up_row(number, 0.0)["image"], Path("x")) for number in range(count)))
    for rank in range(PROCESSES):
        journal = rank_journal(folder, rank, keep_maps=False)
        for number in range(rank, count, PROCESSES):
            journal.add(made_up_row(number, scores[number]), np.empty(0), None)
        journal.close()
    before, begun = peak_bytes(os.getpid()), time.monotonic()
    output.join_ranks()
    totals = output.finish(28)
    seconds = time.monotonic() - begun
    assert totals.scored == count == sum(1 for _ in open(folder / "scores.jsonl"))
    after = peak_bytes(os.getpid())
    print(
        f"{totals.scored:,} rows of {PROCESSES} processes: joined in {seconds:.1f} s, "
        f"memory {before / 2**20:.0f} to {after / 2**20:.0f} MiB",
        flush=True,
    )


def list_files(folder: Path, count: int) -> None:
    """Lists a folder of folders; prints seconds and memory."""
    for number in range(count):
        if number % 10_000 == 0:
            place = folder / f"{number // 10_000:04}"
            place.mkdir(parents=True)
        os.close(os.open(place / f"{number:08}.png", os.O_CREAT))
    before, begun = peak_bytes(os.getpid()), time.monotonic()
    with tempfile.TemporaryFile() as file:
        assert write_list(file, listed([folder])) == sum(1 for _ in read_list(file)) == count
    seconds, after = time.monotonic() - begun, peak_bytes(os.getpid())
    print(
        f"{count:,} files listed and read again in {seconds:.1f} s, memory {before / 2**20:.0f} to "
        f"{after / 2**20:.0f} MiB",
        flush=True,
    )


def join(args: argparse.Namespace) -> None:
    """A tenth of the rows and all of them, each in a process of its own, so that its memory is its own."""
    if args.alone:
        with tempfile.TemporaryDirectory() as folder:
            joined(Path(folder), args.count)
        return
    for count in (args.count // 10, args.count):
        words = ["join", "--alone", "--count", str(count)]
        subprocess.run([sys.executable, __file__, *words], check=True)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("what", choices=("speed", "parts", "join", "list"))
    parser.add_argument("--data", type=Path, help="speed and parts: a dataset in MVTec AD's layout")
    parser.add_argument("--most", type=int, default=10**6, help="test images of a category (default all)")
    parser.add_argument("--only", nargs="+", default=["test", "predict", "train"])
    parser.add_argument(
        "--count", type=int, default=10**6, help="rows to join, files to list (default 1,000,000)"
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    add_options(parser, BackboneConfig)
    args = parser.parse_args()
    if args.what in ("speed", "parts") and args.data is None:
        parser.error(f"{args.what} needs --data")
    if args.what == "list":
        with tempfile.TemporaryDirectory() as folder:
            list_files(Path(folder), args.count)
    else:
        {"speed": speed, "parts": parts, "join": join}[args.what](args)


if __name__ == "__main__":
    main()
