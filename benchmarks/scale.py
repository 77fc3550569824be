"""What several processes and several runs in one pass cost.

    python benchmarks/scale.py speed --data DIR [--most 24] --model ... --pretrained FILE --layers ...
    python benchmarks/scale.py runs --data DIR [--most 8 24] --model ... [flags of test.py]

DATA is a dataset in MVTec AD's layout; --most: test images of a category, about. Each process has one thread.
speed: test.py, predict.py and train.py in one process and in two. The seconds are those of whole commands;
those of the same command where all is done already, which only starts and ends, are printed too. runs:
test.py on the first category, with 4 shots of one seed and with 1, 2 and 4 shots of five seeds. On a machine
that others use too the processor's seconds say more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.shared import Cost, backbone_words, cost_of, described
from fdsl.flags.groups import add_options
from utils.config import BackboneConfig

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
PLAINLY = ["--device", "cpu", "--threads", "1"]
SEEDS, SHOTS = "14 15 16 17 18".split(), "1 2 4".split()
KINDS = ("*.npz", "scores.*", "metrics.*", "*.safetensors")  # files that a command leaves


def timed(what: str, name: str, arguments: list[str], processes: int = 1) -> Cost:
    """A command in one process or in several; prints what it took."""
    several = [*TORCHRUN, str(processes)] if processes > 1 else []
    seconds, busy, memory = cost_of([*several, f"{name}.py", *arguments])
    taken = f"{seconds:.1f} s, {busy / processes:.1f} processor seconds a process, {memory:.0f} MiB"
    print(f"{what}: {taken}", flush=True)
    return Cost(seconds, busy / processes, memory)


def compared(what: str, one: Cost, other: Cost) -> None:
    """Prints how many times the other one is in the first."""
    clock, busy = one.seconds / other.seconds, one.busy / other.busy
    print(f"{what}: {clock:.2f} x by the clock, {busy:.2f} x in processor seconds", flush=True)


def linked(data: Path, folder: Path, most: int, categories: int | None = None) -> list[str]:
    """Flags of a dataset in `folder`: the first categories of another one, at most a quarter of `most` test
    images of each kind."""
    for source in sorted(path.parents[1] for path in data.resolve().glob("*/train/good"))[:categories]:
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
    return ["--dataset", "mvtec", "--data-path", str(folder)]


def left_in(folder: Path) -> dict[str, bytes]:
    """Path -> content of the maps, rows, metrics and weights that a command has left."""
    found = sorted(path for kind in KINDS for path in folder.rglob(kind))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def speed(args: argparse.Namespace, work: Path) -> None:
    backbone = [*backbone_words(args), "--precision", "fp32", *PLAINLY]
    dataset = [*linked(args.data, work / "data", min(args.most)), "--workers", "0"]
    references, made = next((work / "data").glob("*/train/good")), work / "detector.safetensors"
    if "predict" in args.only:
        flags = ["--format", "json", "--false-alarm-rate", "none", "--save-detector", str(made)]
        photographs = ["--references", str(references), "--input", str(next(references.iterdir()))]
        timed("the detector", "predict", [*photographs, "--method", "nearest", *flags, *backbone])
    given = {
        "test": [*dataset, *backbone, "--method", "nearest", "--k-shot", "4", "--image-score", "max"]
        + ["--pictures", "0", "--results"],
        "predict": ["--detector", str(made), *PLAINLY, "--workers", "1", "--resume"]
        + ["--input", str(work / "data/*/test"), "--output"],
        "train": [*dataset, *backbone, "--epochs", "3", "--k-shot", "4", "--checkpoints"],
    }
    for name in args.only:
        found = []
        for processes in (1, 2):
            words = [*given[name], str(work / f"{name}-{processes}")]
            for what in ("", ", to start and end"):
                found.append(timed(f"{name}.py, {processes} process(es){what}", name, words, processes))
        left = left_in(work / f"{name}-1")
        assert left and left == left_in(work / f"{name}-2"), "other files"
        one, one_idle, two, two_idle = map(np.array, found)
        compared(f"{name}.py", Cost(*one), Cost(*two))
        compared(f"{name}.py without start and end", Cost(*one - one_idle), Cost(*two - two_idle))


def runs(args: argparse.Namespace, work: Path) -> None:
    flags = ["--method", "nearest", "--image-score", "max", "--winmode", "nan", "--pictures", "0"]
    flags += ["--workers", "1", *PLAINLY, *backbone_words(args), *args.more]
    for most in args.most:
        data, found = linked(args.data, work / f"data-{most}", most, 1), []
        images = len(list((work / f"data-{most}").glob("*/test/*/*")))
        for shots, seeds in ((SHOTS[-1:], SEEDS[:1]), (SHOTS, SEEDS)):
            several = len(shots) * len(seeds)
            place = ["--k-shot", *shots, "--seed", *seeds, "--results", str(work / f"{most} {several}")]
            what = f"{several} run(s), {images} test images"
            found.append(timed(what, "test", [*data, *place, *flags]))
        compared(f"{images} test images", found[1], found[0])


WORKS = {"speed": speed, "runs": runs}


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("what", choices=WORKS)
    parser.add_argument("--data", type=Path, required=True, help="a dataset in MVTec AD's layout")
    parser.add_argument("--most", type=int, nargs="+", default=[10**6], help="test images (default all)")
    parser.add_argument("--only", nargs="+", default=["test", "predict", "train"])
    add_options(parser, BackboneConfig)
    args, args.more = parser.parse_known_args()
    if args.more and args.what != "runs":
        parser.error(f"unrecognized arguments: {' '.join(args.more)}")
    with tempfile.TemporaryDirectory() as work:
        WORKS[args.what](args, Path(work))


if __name__ == "__main__":
    main()
