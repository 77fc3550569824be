"""The day a GPU is there: whether it gives the CPU's maps and the same bytes twice, and how long it takes.

    python benchmarks/gpu.py                                # checks, then every row of gpu_on_paper.py
    python benchmarks/gpu.py --runs "fdsl 13/2, K=1" --json rows.json

Weights are untrained and images random: neither changes the work. Checks look at small images and end with
exit code 1 where one fails: maps in float32 and in half precision against the CPU's in float32, two runs of
the device byte for byte, the heads after two trainings byte for byte. Times are the shortest of --repeats
runs, compared with those of the bare backbone (the same encoder in half precision on the same pixels, with
nothing around it) and of matrix products of the encoder's size with as much arithmetic as the run. The table
is for README.md. A second one compares what the product does with what it could do instead: blocks of the
encoder that torch.compile made, and products with a memory bank that is not filled up with zeros.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import models.backbones.cpu_attention as cpu_attention
import models.matching.memory_bank as memory_bank
from benchmarks.gpu_on_paper import MODEL, RUNS, Run, chosen_runs
from benchmarks.shared import backbone_parser, shortest, untrained_backbone
from fdsl.scoring import Scorer
from fdsl.training.step import HeadsStep
from models.backbone import Backbone, normalise
from models.detector import Detector
from models.matching.memory_bank import nearest_of
from models.methods.fdsl import Fdsl
from models.methods.registry import METHODS
from utils.command import run_command
from utils.config import MethodConfig, WindowConfig
from utils.device import choose_device, choose_precision, make_repeatable, use_threads
from utils.text import first_line
from utils.tile_layout import TileLayout

FARTHEST = {torch.float32: 1e-4, torch.float16: 0.05}  # that a map may lie from the CPU's
CHECKED = [
    ("nearest", WindowConfig("mul", 4, 2)),
    ("plus", WindowConfig("nan", tiles=2)),
    ("plus", WindowConfig("mul", 4, 4, index_memory="window")),
    ("subspace", WindowConfig("nan")),
    ("fdsl", WindowConfig("mul", 4, 2, index_memory="1")),
]
GRID_CHECKED = 9  # patches along a side of the images that are checked: odd, as those of 518 px
TRAINING_STEPS, TRAINED_TOGETHER = 3, 2


def unfitted(backbone: Backbone, method: str, windows: WindowConfig, side: int) -> Detector:
    torch.manual_seed(0)
    made = METHODS[method].load()(backbone.width, len(backbone.layers), MethodConfig())
    return Detector(backbone, made, side, windows)


def fitted(backbone: Backbone, method: str, windows: WindowConfig, side: int, shots: int) -> Scorer:
    """A scorer whose detector is fitted to random references."""
    detector = unfitted(backbone, method, windows, side)
    if windows.tiles > 1:
        detector.layout = TileLayout(windows.tiles, windows.tiles, detector.grid, backbone.patch_size)
    scorer = Scorer(detector)
    scorer.fit(pixels_for(detector, shots, 1))
    return scorer


def pixels_for(detector: Detector, count: int, seed: int) -> Tensor:
    """Random photographs as the detector takes them."""
    views = () if detector.layout is None else (1 + len(detector.layout),)
    size = (count, *views, 3, detector.image_size, detector.image_size)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def maps_of(scorer: Scorer) -> list[np.ndarray]:
    found = scorer(pixels_for(scorer.detector, 3, 2), ["first", "second", "third"])
    return found.arrays


def checks(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, bool]]:
    """What is checked, with what was found, and whether it is right."""
    plain = untrained_backbone(args, torch.device("cpu"), torch.float32)
    side = GRID_CHECKED * plain.patch_size
    wanted = [maps_of(fitted(plain, *chosen, side, 2)) for chosen in CHECKED]
    for dtype, most in FARTHEST.items():
        backbone = untrained_backbone(args, device, dtype)
        for (method, windows), right in zip(CHECKED, wanted):
            name = f"{method}, {windows.winmode}, tiles {windows.tiles}, {str(dtype).removeprefix('torch.')}"
            scorer = fitted(backbone, method, windows, side, 2)
            found = maps_of(scorer)
            apart = max(float(np.abs(one - other).max()) for one, other in zip(found, right))
            yield f"{name}: {apart:.1e} from the CPU's float32 (at most {most:g})", apart <= most
            again = maps_of(scorer)
            same = all(one.tobytes() == other.tobytes() for one, other in zip(found, again))
            yield f"{name}: two runs give the same bytes", same
    make_repeatable(device)
    one, other = (trained(plain, device) for _ in range(2))
    yield "two trainings give the same bytes", one == other
    torch.use_deterministic_algorithms(False)


def trained(backbone: Backbone, device: torch.device) -> bytes:
    """The heads after a few steps on random discrepancies."""
    torch.manual_seed(0)
    method = Fdsl(backbone.width, len(backbone.layers)).to(device).train()
    step = HeadsStep(method, torch.optim.Adam(method.parameters(), lr=1e-3))
    side = GRID_CHECKED * backbone.patch_size
    for _ in range(TRAINING_STEPS):
        patches = GRID_CHECKED**2
        found = torch.rand(len(backbone.layers), TRAINED_TOGETHER, patches, backbone.width)
        mask = (torch.rand(TRAINED_TOGETHER, 1, side, side) > 0.9).float()
        step(found.to(device), mask.to(device))
        step.optimizer.step()
    return b"".join(value.cpu().numpy().tobytes() for value in method.state_dict().values())


@dataclass
class Row:
    """Of one photograph: milliseconds of the run, of the bare backbone and of products of equal arithmetic;
    the peak of the device's memory in GiB."""

    run: str
    milliseconds: float
    bare: float
    product: float
    peak_gib: float

    @property
    def ratios(self) -> tuple[float, float]:
        return self.milliseconds / self.bare, self.milliseconds / self.product


def row_of(args: argparse.Namespace, device: torch.device, backbone: Backbone, run: Run) -> Row:
    windows = run.windows()
    if windows.winmode != "nan" and args.win_size is not None:
        windows = replace(windows, win_size=args.win_size)
    scorer = fitted(backbone, run.method, windows, args.image_size, run.shots)
    detector, names = scorer.detector, [f"photograph {number}" for number in range(args.batch)]
    pixels = pixels_for(detector, args.batch, 2)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with FlopCounterMode(display=False) as counter:
        scorer(pixels, names)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    rows, width = 4 * detector.grid**2, backbone.width  # a product of the size of the encoder's own
    one = torch.ones(rows, width, dtype=backbone.dtype, device=device)
    other = torch.ones(width, 4 * width, dtype=backbone.dtype, device=device)
    works: list[Callable[[], object]] = [
        lambda: scorer(pixels, names),
        lambda: bare_pass(backbone, pixels.flatten(0, -4), detector),
        lambda: one @ other,
    ]
    own, bare, product = (1e3 * seconds for seconds in shortest(works, args.repeats, device))
    product *= counter.get_total_flops() / (2 * rows * width * 4 * width)
    return Row(str(run), own / args.batch, bare / args.batch, product / args.batch, peak / 2**30)


@torch.no_grad()
def bare_pass(backbone: Backbone, pixels: Tensor, detector: Detector) -> None:
    """The encoder alone on all that the detector encodes, with windows cut by the device."""
    images = normalise(pixels.to(backbone.device, non_blocking=True), backbone.mean, backbone.std)
    backbone.encode_normalised(images)
    if detector.windows is not None:
        for image in images:
            windows = detector.windows.grid.cut(image, backbone.patch_size)
            for part in windows.split(detector.windows.chunk):
                backbone.encode_normalised(part)


class Choice(NamedTuple):
    """Milliseconds as the product does it, and as it could; the farthest that the results lie apart."""

    what: str
    milliseconds: float
    otherwise: float
    apart: float

    @property
    def cells(self) -> list[str]:
        ratio = self.otherwise / self.milliseconds
        return [
            self.what,
            *(f"{value:.3g}" for value in (self.milliseconds, self.otherwise, ratio, self.apart)),
        ]


@torch.no_grad()
def choices(args: argparse.Namespace, device: torch.device, backbone: Backbone) -> Iterator[Choice]:
    """What a measurement on this device decides."""
    windows = RUNS[-1].windows()
    windows = replace(windows, win_size=args.win_size or windows.win_size)
    branch = unfitted(backbone, "nearest", windows, args.image_size).window_branch
    compiled, unit = untrained_backbone(args, device, backbone.dtype), cpu_attention.bf16_in_hardware()
    cpu_attention.bf16_in_hardware = lambda: unit  # a compiler cannot look into it, and would break off there
    visual = compiled.visual
    for block in visual.blocks if hasattr(visual, "blocks") else visual.transformer.resblocks:
        block.compile()
    window = branch.grid.encoded * backbone.patch_size
    sizes = (("images", args.batch, args.image_size), ("windows", min(branch.chunk, len(branch)), window))
    for what, count, side in sizes:
        pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        works = [partial(tokens_of, one, pixels) for one in (backbone, compiled)]
        try:
            (first,) = shortest(works[1:], 1, device, warm=False)
        except Exception as error:  # a compiler is missing, or something that it needs
            print(f"{count} {what}: torch.compile does not work here ({first_line(error, 200)})")
            continue
        what = f"{count} {what}: eager blocks, compiled ones ({first:.0f} s the first time)"
        yield compared(what, works, args.repeats, device)
    if device.type == "cuda":  # a CPU's products are with the bank as it is
        drawn = torch.randn(branch.tokens, backbone.width, device=device)
        bank = F.normalize(drawn, dim=-1).to(backbone.dtype)
        query = bank.flip(0)[: 4 * memory_bank.ON_A_GPU // len(bank)]
        works = [lambda: nearest_of(query, bank)[0], lambda: nearest_of_odd(query, bank)]
        what = f"nearest of {len(bank):,} tokens: filled up, not filled up"
        yield compared(what, works, args.repeats, device)


def tokens_of(backbone: Backbone, pixels: Tensor) -> Tensor:
    return backbone.encode(pixels).tokens


def nearest_of_odd(query: Tensor, bank: Tensor) -> Tensor:
    """What `nearest_of` gives where a bank is multiplied as long as it is."""
    most = memory_bank.ON_A_GPU // len(bank)
    return torch.cat([(chunk @ bank.t()).max(-1).values for chunk in query.split(most)])


def compared(what: str, works: list[Callable[[], Tensor]], repeats: int, device: torch.device) -> Choice:
    one, other = (work().float() for work in works)
    own, otherwise = (1e3 * seconds for seconds in shortest(works, repeats, device))
    return Choice(what, own, otherwise, float((one - other).abs().max()))


def main(arguments: list[str] | None = None) -> int:
    parser = backbone_parser(__doc__, MODEL)
    parser.add_argument("--runs", nargs="*", metavar="RUN", help="rows by their names (default: all)")
    parser.add_argument("--batch", type=int, default=4, help="photographs at once (default 4)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--win-size", type=int, help="patches, in place of the runs' own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write checks and rows to it")
    parser.set_defaults(device="cuda")
    args = parser.parse_args(arguments)
    use_threads(args.threads)
    runs = chosen_runs(parser, args.runs)
    device = choose_device(args.device)
    checked = []
    for what, right in checks(args, device):
        print(f"{'ok' if right else 'WRONG'}: {what}", flush=True)
        checked.append((what, right))
    backbone = untrained_backbone(args, device, choose_precision(args.precision, device))
    rows = [row_of(args, device, backbone, run) for run in runs]
    columns = ["run", "ms a photograph", "compared with the bare backbone", "with equal products", "peak GiB"]
    table = [
        [row.run, *(f"{value:.2f}" for value in (row.milliseconds, *row.ratios, row.peak_gib))]
        for row in rows
    ]
    print(tabulate(table, columns, tablefmt="github", disable_numparse=True))
    undecided = list(choices(args, device, backbone))
    columns = ["what: as it is, otherwise", "ms", "otherwise, ms", "ratio", "results apart"]
    print(tabulate([one.cells for one in undecided], columns, tablefmt="github", disable_numparse=True))
    if args.json is not None:
        args.json.write_text(
            json.dumps(
                {
                    "checks": checked,
                    "rows": [vars(row) for row in rows],
                    "choices": [one._asdict() for one in undecided],
                }
            )
        )
    return int(not all(right for _, right in checked))


if __name__ == "__main__":
    run_command(main)
