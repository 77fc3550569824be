"""What several runs in one pass cost: 1, 2 and 4 shots of five seeds compared with 4 shots of one seed.

    python benchmarks/one_pass.py image [none own whole]
    python benchmarks/one_pass.py commands --data DIR [--images 8 24]

image: seconds for a test image and for a reference; the model is untrained and the banks hold random tokens,
neither of which changes the work. none: without local windows; own: each within its own picks; whole: within
the whole bank of windows. commands: test.py as a whole on the first category of a dataset in MVTec AD's
layout, with two numbers of its test images. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.shared import Cost, backbone_parser, backbone_words, linked, timed, untrained_backbone
from fdsl.scoring import Scorer
from models.backbone import Backbone
from models.detector import NO_WINDOWS, Detector
from models.encoding_cache import EncodedOnce
from models.features import Features, Views
from models.matching.memory_bank import SIMILARITY_VALUES, MemoryBank
from models.method import Method
from models.methods.fdsl import Fdsl
from models.methods.registry import METHODS
from utils.command import run_command
from utils.config import UNTRAINED, MethodConfig, WindowConfig
from utils.device import choose_device, choose_precision, use_threads
from utils.errors import ConfigError, ModelError

SEEDS, SHOTS = (14, 15, 16, 17, 18), (1, 2, 4)
LOOKS = {"none": None, "own": "window", "whole": "0"}  # --index-memory
OF_A_CATEGORY = 83  # test images: those of bottle


class Taken(NamedTuple):
    """By the clock and by the processor, in seconds."""

    seconds: float
    busy: float


def timed_once(work: Callable[[], object]) -> Taken:
    begun, busy = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - begun, time.process_time() - busy)


def least(taken: Sequence[Taken]) -> Taken:
    return Taken(min(one.seconds for one in taken), min(one.busy for one in taken))


def random_tokens(backbone: Backbone) -> Callable[..., Features]:
    """Stands in for a backbone: random unit tokens, at each call in another order."""
    known: dict[int, Tensor] = {}

    def encode(images: Tensor, want: frozenset[str], side: int | None = None) -> Features:
        patches = backbone.grid(side or images.shape[-1]) ** 2
        if patches not in known:
            tokens = torch.randn(len(backbone.layers), patches, backbone.width, dtype=torch.float32)
            known[patches] = F.normalize(tokens, dim=-1).to(backbone.dtype)
        orders = [torch.randperm(patches) for _ in images]
        return Features(torch.stack([known[patches][:, order] for order in orders], dim=1))

    return encode


def knowing(backbone: Backbone, method: Method, side: int, windows: WindowConfig) -> list[list[Detector]]:
    """The detectors of each seed, those of most shots first; the others share their banks."""
    found = []
    for _ in SEEDS:
        detectors = [Detector(backbone, method, side, windows) for _ in SHOTS]
        most = detectors[0]
        most.once = EncodedOnce(random_tokens(backbone), 0)
        most.fit(torch.zeros(max(SHOTS), 3, side, side, dtype=torch.uint8))
        most.matching_once()
        for detector, shots in zip(detectors[1:], sorted(SHOTS, reverse=True)[1:]):
            detector.take_first_references(most, shots, max(SHOTS))
        found.append(detectors)
    return found


def by_itself(detector: Detector) -> Detector:
    """The detector as it is in a run of its own: nothing is matched for others."""
    alone = copy(detector)
    alone.memories = detector.memories.each_bank(lambda bank: replace(bank, known=None))
    return alone


def scored(each: Sequence[Sequence[Detector]], pixels: Tensor) -> None:
    """An image by the detectors of each seed, encoded once, each reference matched once."""
    once = EncodedOnce(each[0][0].backbone.encode, 2**40)
    for detectors in each:
        for detector in detectors:
            detector.once = once
            Scorer(detector)(pixels, ["a photograph"])
        detectors[0].forget_matched()


def product(banks: Sequence[MemoryBank], queries: int) -> None:
    """Nothing but the products of so many query tokens and the banks."""
    for bank in banks:
        rows = bank.centred.shape[1]
        at_once = min(queries, max(1, SIMILARITY_VALUES // rows))
        query = torch.randn(at_once, bank.centred.shape[2]).to(bank.centred.dtype)
        place = query.new_empty(at_once, rows)
        for block in bank.centred:
            for _ in range(queries // at_once):
                torch.mm(query, block.t(), out=place)


@torch.no_grad()
def image(args: argparse.Namespace) -> None:
    use_threads(args.threads)
    cpu = torch.device("cpu")
    backbone = untrained_backbone(args, cpu, choose_precision(args.precision, cpu))
    torch.manual_seed(0)
    made = METHODS[args.method].load()
    heads = Fdsl(backbone.width, len(args.layers)).state_dict() if made.needs_heads else None
    method = made.of_heads(backbone.width, len(args.layers), MethodConfig(), heads).eval()
    lines = []
    for look in args.looks or LOOKS:
        windows, memory = NO_WINDOWS, LOOKS[look]
        if memory is not None:
            windows = WindowConfig("mul", args.win_size, args.win_stride, index_memory=memory)
        each = knowing(backbone, method, args.image_size, windows)
        lines += lines_of(look, measured(args, each, look))
    columns = ("windows", "", "reference", "one run", "15 runs", "ratio", "one product", "with references")
    print(tabulate(lines, columns, "pipe", disable_numparse=True))


def measured(args: argparse.Namespace, each: Sequence[Sequence[Detector]], look: str) -> list[Taken]:
    """Of a reference, of an image in one run and in all, and of the products alone."""
    one, first = [[by_itself(each[0][0])]], each[0][0]
    found: list[list[Taken]] = [[], [], [], []]
    for _ in range(args.repeats):
        pixels = torch.randint(0, 256, (1, 3, args.image_size, args.image_size), dtype=torch.uint8)
        works: list[Callable[[], object]] = [
            partial(encoded, first, pixels),
            partial(scored, one, pixels),
            partial(scored, each, pixels),
            partial(products_of, each, look),
        ]
        for work, taken in zip(works, found):
            taken.append(timed_once(work))
    return [least(taken) for taken in found]


def lines_of(what: str, found: Sequence[Taken]) -> list[list[str]]:
    """By the clock and by the processor: seconds, how many times one run's, and the same with the
    references of a category of OF_A_CATEGORY test images."""
    lines = []
    for kind, (reference, alone, together, product) in zip(("clock", "processor"), zip(*found)):
        whole = len(SEEDS) * max(SHOTS) * reference + OF_A_CATEGORY * together
        ratio = whole / (max(SHOTS) * reference + OF_A_CATEGORY * alone)
        seconds = [f"{value:.2f} s" for value in (reference, alone, together)]
        lines.append([what, kind, *seconds, f"{together / alone:.2f}", f"{product:.2f} s", f"{ratio:.2f}"])
    return lines


def encoded(detector: Detector, images: Tensor) -> None:
    """What a reference costs: it as a whole, and its windows."""
    detector.once = None
    detector.encode(images, detector.method.want)
    if detector.windows is not None:
        windows = detector.windows
        for _ in windows.encoded(detector.encode, Views(images[:1]), windows.match.want):
            pass


def products_of(each: Sequence[Sequence[Detector]], look: str) -> None:
    """One product of an image's tokens, and of its windows', with the banks of all seeds."""
    first = each[0][0]
    whole = [detectors[0].memories.whole for detectors in each]
    product([bank for bank in whole if isinstance(bank, MemoryBank)], first.grid**2)
    if look == "whole":
        parts = [detectors[0].window_memory for detectors in each]
        queries = first.window_patches
        product([bank for bank in parts if isinstance(bank, MemoryBank)], queries)


def commands(args: argparse.Namespace) -> None:
    flags = ["--method", args.method, "--pictures", "0", "--workers", "1"]
    flags += ["--image-score", "max", "--winmode", "nan", "--device", "cpu", "--precision", args.precision]
    flags += backbone_words(args, pretrained=UNTRAINED)
    one = ["--k-shot", str(max(SHOTS)), "--seed", str(SEEDS[0])]
    every = ["--k-shot", *map(str, SHOTS), "--seed", *map(str, SEEDS)]
    found: dict[tuple[str, int], Cost] = {}
    with tempfile.TemporaryDirectory() as work:
        for most in args.images:
            data = linked(args.data.resolve(), Path(work) / f"data-{most}", most, 1)
            images = len(list(data.glob("*/test/*/*")))
            for name, draws in (("one run", one), ("15 runs", every)):
                place = ["--dataset", "mvtec", "--data-path", str(data)]
                place += ["--results", str(Path(work) / f"{name} {most}")]
                found[name, images] = timed("test", [*place, *draws, *flags], 1)
                cost = found[name, images]
                print(
                    f"{name}, {images} test images: {cost.seconds:.1f} s, {cost.busiest:.1f} processor "
                    f"seconds, {1024 * cost.memory:.0f} MiB",
                    flush=True,
                )
    for images in sorted({number for _, number in found}):
        alone, together = found["one run", images], found["15 runs", images]
        print(
            f"{images} test images: {together.seconds / alone.seconds:.2f} x by the clock, "
            f"{together.busiest / alone.busiest:.2f} x in processor seconds, "
            f"{1024 * (together.memory - alone.memory):.0f} MiB more"
        )


def main(argv: list[str] | None = None) -> None:
    parser = backbone_parser(__doc__)
    parser.add_argument("what", choices=("image", "commands"))
    parser.add_argument("looks", nargs="*", metavar="look", help=f"which of {', '.join(LOOKS)} (default all)")
    parser.add_argument("--method", default="nearest")
    parser.add_argument("--win-size", type=int, default=13)
    parser.add_argument("--win-stride", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="the shortest counts")
    parser.add_argument("--data", type=Path, help="a dataset in MVTec AD's layout")
    parser.add_argument("--images", type=int, nargs="+", default=[8, 24], help="test images, about")
    parser.set_defaults(precision="bf16", device="cpu")
    args = parser.parse_args(argv)
    if unknown := set(args.looks) - set(LOOKS):
        parser.error(f"unknown look(s) {', '.join(sorted(unknown))}")
    if choose_device(args.device).type != "cpu":
        parser.error("it measures a CPU alone")
    if args.what == "commands" and args.data is None:
        parser.error("commands needs --data")
    image(args) if args.what == "image" else commands(args)


if __name__ == "__main__":
    run_command(main, (ConfigError, ModelError))
