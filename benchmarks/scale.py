"""Two processes against one, and what a photograph costs step by step.

    python benchmarks/scale.py speed --data DIR [--most 24] --model ... --pretrained FILE --layers ...
    python benchmarks/scale.py parts --data DIR --model ... --pretrained FILE --layers ...

DATA is a dataset in MVTec AD's layout. speed: test.py, predict.py and train.py, every process with one
thread. The seconds are those of whole commands; those of the same command where all is done already, which
only starts and ends, are beside them. On a machine that others use too the processor's seconds of the busiest
process say more. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.watched import timed
from data.inputs import list_images
from data.photographs import read_ahead
from fdsl.api import AnomalyDetector
from fdsl.flags.groups import add_backbone_flags
from fdsl.inspection import draw, row_of
from fdsl.store.journal import Journal
from fdsl.store.taken_up import stamp_values
from tests.support.small_runs import files

TOWER = ("model", "pretrained", "model_config", "layers", "image_size")


def tower_of(args: argparse.Namespace) -> dict[str, Any]:
    """The backbone's flags that were given."""
    return {name: getattr(args, name) for name in TOWER if getattr(args, name) is not None}


def backbone_flags(args: argparse.Namespace) -> list[str]:
    """The same as a command takes them, on a CPU in float32 and one thread."""
    flags = ["--precision", "fp32", "--device", "cpu", "--threads", "1"]
    for name, value in tower_of(args).items():
        values = value if isinstance(value, (list, tuple)) else [value]
        flags += [f"--{name.replace('_', '-')}", *map(str, values)]
    return flags


def linked(data: Path, folder: Path, most: int, categories: int | None = None) -> Path:
    """The first categories of a dataset in another folder, at most a quarter of `most` test images of each
    kind."""
    for source in sorted(path.parents[1] for path in data.glob("*/train/good"))[:categories]:
        category = folder / source.name
        (category / "train").mkdir(parents=True)
        (category / "train/good").symlink_to(source / "train/good")
        for kind in sorted(path.name for path in (source / "test").iterdir()):
            target, masks = category / "test" / kind, category / "ground_truth" / kind
            target.mkdir(parents=True)
            for photo in sorted((source / "test" / kind).iterdir())[: most // 4]:
                (target / photo.name).symlink_to(photo)
                mask = source / "ground_truth" / kind / f"{photo.stem}_mask.png"
                if mask.exists():
                    masks.mkdir(parents=True, exist_ok=True)
                    (masks / mask.name).symlink_to(mask)
    return folder


def speed(args: argparse.Namespace) -> None:
    only, backbone = args.only, backbone_flags(args)
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
            assert files(Path(work) / f"{name}-1") == files(Path(work) / f"{name}-2"), "other files"
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
    detector = AnomalyDetector.from_backbone(device="cpu", precision="fp32", **tower_of(args))
    references = next(args.data.glob("*/train/good"))
    detector.remember(references, false_alarm_rate=None)
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
            row = {**row_of(loaded.name, found), "file": stamp_values(loaded.stamp)}
            with clock(taken["picture"]):
                row["picture"] = draw(detector, loaded.name, loaded.photo, found, Path(work))
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "parts"))
    parser.add_argument("--data", type=Path, required=True, help="a dataset in MVTec AD's layout")
    parser.add_argument("--most", type=int, default=10**6, help="test images of a category (default all)")
    parser.add_argument("--only", nargs="+", default=["test", "predict", "train"])
    add_backbone_flags(parser)
    args = parser.parse_args()
    speed(args) if args.what == "speed" else parts(args)


if __name__ == "__main__":
    main()
