"""Two processes against one, what joining a large run costs, and kills of torchrun's processes.

    python benchmarks/scale.py speed --shared ../shared      # test, predict and train on photographs
    python benchmarks/scale.py join                          # 1,000 blocks of 1,000 drawn rows
    python benchmarks/scale.py list                          # a million files in a folder of folders
    python benchmarks/scale.py parts --shared ../shared      # what one photograph costs, step by step
    python benchmarks/scale.py kills --kills 10              # over test, predict and train, at random moments

speed: every process has one thread. The seconds are those of whole commands; those of the same command where
all is done already, which only starts and ends, are beside them. On a machine that others use too the
processor's seconds of the busiest process say more. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.inputs import list_images
from data.manifest import Listed, Manifest, Spool, listed
from data.photographs import read_ahead
from fdsl.api import AnomalyDetector
from fdsl.inspection import draw, row_of
from fdsl.run_config import FittedConfig, PredictionConfig, RunConfig
from fdsl.store.blocks import Blocks
from fdsl.store.journal import Journal
from fdsl.store.prediction_folder import PredictionFolder
from fdsl.store.taken_up import stamp_values
from tests.support.run_config import a_config
from tests.support.small_runs import Place, environment, files

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
POLL = 0.1  # seconds


def command(name: str, arguments: list[str], processes: int) -> list[str]:
    """A command in one process, or in several."""
    several = [*TORCHRUN, str(processes)] if processes > 1 else []
    return [sys.executable, *several, str(ROOT / f"{name}.py"), *arguments]


def descendants(number: int) -> Iterator[int]:
    """The ids of a process's children and of theirs."""
    try:
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def ranks_of(number: int, name: str) -> list[int]:
    """Those below a process that run the command `name`."""
    found = []
    for child in descendants(number):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            any(word.endswith(f"/{name}.py".encode()) for word in words)
            and b"torch.distributed.run" not in words
        ):
            found.append(child)
    return found


def peak_bytes(number: int) -> int:
    """The largest memory that a process has had; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def cpu_seconds(number: int) -> float:
    """The processor's seconds that a process has had; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Of a command: seconds from its start to its end; the processor's seconds and the GiB of the process
    that had most of them."""

    seconds: float
    busiest: float
    memory: float


def timed(name: str, arguments: list[str], processes: int) -> Cost:
    """A command from its start to its end."""
    begun = time.monotonic()
    peaks: dict[int, int] = {}
    busy: dict[int, float] = {}
    with tempfile.TemporaryFile("w+") as said:
        words = command(name, arguments, processes)
        process = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=said, stderr=said)
        while process.poll() is None:
            own = ranks_of(process.pid, name) if processes > 1 else [process.pid]
            for one in own:
                peaks[one] = max(peaks.get(one, 0), peak_bytes(one))
                busy[one] = max(busy.get(one, 0.0), cpu_seconds(one))
            time.sleep(POLL)
        seconds = time.monotonic() - begun
        said.seek(0)
        assert process.returncode == 0, said.read()
    return Cost(seconds, max(busy.values()), max(peaks.values()) / 2**30)


def linked(shared: Path, folder: Path, most: int) -> Path:
    """The photographs of bottle, tire and magnetic_tile as one dataset folder, at most `most` test images of
    each."""
    for category in ("bottle", "tire"):
        source = shared / "data/mvtec" / category
        (folder / category / "train").mkdir(parents=True)
        (folder / category / "train/good").symlink_to(source / "train/good")
        for kind in sorted(path.name for path in (source / "test").iterdir()):
            photos = sorted((source / "test" / kind).iterdir())[: most // 4]
            target = folder / category / "test" / kind
            target.mkdir(parents=True)
            for photo in photos:
                (target / photo.name).symlink_to(photo)
                mask = source / "ground_truth" / kind / f"{photo.stem}_mask.png"
                if mask.exists():
                    place = folder / category / "ground_truth" / kind
                    place.mkdir(parents=True, exist_ok=True)
                    (place / mask.name).symlink_to(mask)
    return folder


def speed(shared: Path, most: int, only: list[str]) -> None:
    backbone = [
        *("--model", "DeiT-Ti-16", "--model-config", str(shared / "weights/open_clip_configs")),
        *(
            "--pretrained",
            str(shared / "weights/DeiT-Ti-16-in1k.safetensors"),
            "--layers",
            "3",
            "6",
            "9",
            "12",
        ),
        *("--image-size", "448", "--precision", "fp32", "--device", "cpu", "--threads", "1"),
    ]
    with tempfile.TemporaryDirectory() as work:
        folder = linked(shared.resolve(), Path(work) / "data", most)
        made = Path(work) / "detector.safetensors"
        if "predict" in only:
            made_of = ["--references", str(folder / "bottle/train/good"), "--method", "nearest", "--input"]
            more = ["--format", "json", "--false-alarm-rate", "none", "--save-detector", str(made)]
            first = str(next((folder / "bottle/train/good").iterdir()))
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


def parts(shared: Path) -> None:
    """What a photograph of *bottle* costs in one thread, step by step, in the processor's time, and what it
    leaves; medians over every fourth test image."""
    torch.set_num_threads(1)
    detector = AnomalyDetector.from_backbone(
        model="DeiT-Ti-16",
        model_config=str(shared / "weights/open_clip_configs"),
        pretrained=str(shared / "weights/DeiT-Ti-16-in1k.safetensors"),
        layers=[3, 6, 9, 12],
        image_size=448,
        device="cpu",
        precision="fp32",
    )
    bottle = shared / "data/mvtec/bottle"
    detector.remember(bottle / "train/good", false_alarm_rate=None)
    photographs = list_images(bottle / "test")[::4]
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


def kill_at_random(kills: int, seed: int) -> None:
    """torchrun's processes of each command, one of them killed at a random moment, then the same command
    again, by torchrun (--max-restarts) or by hand in another number of processes."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as work:
        place = Place(Path(work) / "place")
        subprocess.run(
            command("train", place.train(), 1), cwd=ROOT, env=environment(), check=True, capture_output=True
        )

        def arguments(name: str, folder: Path) -> list[str]:
            if name == "train":
                return place.train("--epochs", "6", "--save-every", "1", "--checkpoints", str(folder))
            if name == "test":
                return place.test("--results", str(folder))
            return place.predict("--resume", "--save-maps", "--output", str(folder))

        whole = {}
        for name in ("test", "predict", "train"):
            folder = Path(work) / f"{name}-whole"
            seconds = timed(name, arguments(name, folder), 2).seconds
            whole[name] = (seconds, files(folder))
        hit = dict.fromkeys(whole, 0)
        number = restarted = 0
        while sum(hit.values()) < kills:
            name = list(whole)[number % 3]
            number += 1
            seconds, wanted = whole[name]
            folder = Path(work) / f"{name}-{number}"
            restarts = number % 2
            was_hit = kill_once(
                name, arguments(name, folder), moments.uniform(0.3, 1) * seconds, moments, restarts
            )
            hit[name] += was_hit
            restarted += was_hit and restarts
            if not restarts:
                timed(name, arguments(name, folder), moments.choice((1, 2, 3)))
            assert files(folder) == wanted, f"{name}.py left other files after kill {number}"
            shutil.rmtree(folder)
    print(
        ", ".join(f"{name}.py: {count} kills" for name, count in hit.items())
        + f"; {restarted} of them restarted by torchrun; all ended in the same files"
    )


def kill_once(name: str, arguments: list[str], after: float, moments: random.Random, restarts: int) -> bool:
    """Kills one of two processes so many seconds after their start; False where they were done by then."""
    words = command(name, arguments, 2)
    words[words.index("2") + 1 : words.index("2") + 1] = ["--max-restarts", str(restarts)]
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(after)
    ranks = ranks_of(process.pid, name)
    if ranks:
        os.kill(moments.choice(ranks), signal.SIGKILL)
    code = process.wait(timeout=300)
    assert code == 0 or not restarts, f"torchrun did not end {name}.py well"
    return bool(ranks) and (bool(restarts) or code != 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "join", "list", "parts", "kills", "one-join"))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="the photographs' folder")
    parser.add_argument("--most", type=int, default=10**6, help="test images of a category (default all)")
    parser.add_argument("--only", nargs="+", default=["test", "predict", "train"])
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--length", type=int, default=1000, help="rows of a block (default 1000)")
    parser.add_argument("--count", type=int, default=10**6, help="files to list (default 1,000,000)")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.what == "speed":
        speed(args.shared, args.most, args.only)
    elif args.what == "join":
        for blocks in (args.blocks // 10, args.blocks):
            in_a_process(["one-join", "--blocks", str(blocks), "--length", str(args.length)])
    elif args.what == "parts":
        parts(args.shared)
    elif args.what == "kills":
        kill_at_random(args.kills, args.seed)
    else:
        with tempfile.TemporaryDirectory() as folder:
            if args.what == "one-join":
                joined(Path(folder), args.blocks, args.length)
            else:
                list_files(Path(folder), args.count)


if __name__ == "__main__":
    main()
