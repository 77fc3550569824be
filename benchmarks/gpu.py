"""The day a GPU is there: whether it gives the CPU's maps and the same bytes twice, and how long it takes.

    python benchmarks/gpu.py                                # checks, then every row of gpu_on_paper.py
    python benchmarks/gpu.py --runs "fdsl 13/2, K=1" --json rows.json

Weights are untrained and images random: neither changes the work. Checks look at small images and end with
exit code 1 where one fails: maps in float32 and in half precision against the CPU's in float32, two runs of
the device byte for byte, the heads after two trainings byte for byte. Times are the shortest of --repeats
runs, compared with those of the bare backbone (the same encoder in half precision on the same pixels, with
nothing around it) and of matrix products of the encoder's size with as much arithmetic as the run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_on_paper import MODEL, Run, add_runs, chosen_runs
from benchmarks.shared import backbone_parser, shortest, untrained_backbone
from fdsl.scoring import Scorer
from fdsl.training.step import HeadsStep
from models.backbone import Backbone, normalise
from models.detector import Detector
from models.methods.fdsl import Fdsl
from models.methods.registry import METHODS
from utils.command import run_command
from utils.config import MethodConfig, WindowConfig
from utils.device import choose_device, choose_precision, make_repeatable, use_threads
from utils.tile_layout import TileLayout
from utils.views import Views

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


def fitted(backbone: Backbone, method: str, windows: WindowConfig, side: int, shots: int) -> Scorer:
    """A scorer whose detector is fitted to random references."""
    torch.manual_seed(0)
    made = METHODS[method].load()(backbone.width, len(backbone.layers), MethodConfig())
    detector = Detector(backbone, made, side, windows)
    if windows.tiles > 1:
        detector.layout = TileLayout(windows.tiles, windows.tiles, detector.grid, backbone.patch_size)
    scorer = Scorer(detector)
    scorer.fit(views_for(detector, shots, 1))
    return scorer


def views_for(detector: Detector, count: int, seed: int) -> Views:
    """Random photographs as the detector takes them."""
    tiles = 0 if detector.layout is None else len(detector.layout)
    size = (count, 1 + tiles, 3, detector.image_size, detector.image_size)
    values = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Views(values[:, 0], values[:, 1:] if tiles else None)


def maps_of(scorer: Scorer) -> list[np.ndarray]:
    return scorer(views_for(scorer.detector, 3, 2), ["first", "second", "third"]).arrays


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


def row_of(args: argparse.Namespace, device: torch.device, backbone: Backbone, run: Run) -> Row:
    windows = run.windows()
    if windows.winmode != "nan" and args.win_size is not None:
        windows = replace(windows, win_size=args.win_size)
    scorer = fitted(backbone, run.method, windows, args.image_size, run.shots)
    detector, names = scorer.detector, [f"photograph {number}" for number in range(args.batch)]
    views = views_for(detector, args.batch, 2)
    images = [one for one in (views.whole, views.tiles) if one is not None]
    pixels = torch.cat([one.flatten(0, -4) for one in images])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with FlopCounterMode(display=False) as counter:
        scorer(views, names)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    rows, width = 4 * detector.grid**2, backbone.width  # a product of the size of the encoder's own
    one = torch.ones(rows, width, dtype=backbone.dtype, device=device)
    other = torch.ones(width, 4 * width, dtype=backbone.dtype, device=device)
    works: list[Callable[[], object]] = [
        lambda: scorer(views, names),
        lambda: bare_pass(backbone, pixels, detector),
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


def main(arguments: list[str] | None = None) -> int:
    parser = backbone_parser(__doc__, MODEL)
    add_runs(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--win-size", type=int, help="patches, in place of the runs' own")
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
    table = [(run, ms, ms / bare, ms / gemm, peak) for run, ms, bare, gemm, peak in map(astuple, rows)]
    print(tabulate(table, columns, tablefmt="github", floatfmt=".2f"))
    if args.json is not None:
        args.json.write_text(json.dumps({"checks": checked, "rows": [vars(row) for row in rows]}))
    return int(not all(right for _, right in checked))


if __name__ == "__main__":
    run_command(main)
