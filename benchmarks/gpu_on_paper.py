"""What a run costs on a GPU, counted without one: kernels, arithmetic, bytes and peak memory at true size.

    python benchmarks/gpu_on_paper.py                                            # all rows
    python benchmarks/gpu_on_paper.py --runs "fdsl 13/2, K=1" --json rows.json

The product's own code runs on PyTorch's fake tensors, which say that they lie on a GPU and hold no values. A
row is the cost of one of the --batch photographs (ViT-L-14-336 at 518 px): kernels that are started, TFLOP,
GB that kernels read and write, MB that cross between host and device, the peak of the device's memory in GiB,
and a lower bound of its time on several GPUs. That is a roofline: GEMM of the peak arithmetic, MEMORY of the
bandwidth, and --shortest seconds for each kernel at least: with 0 the times are those of kernels that cost
nothing to start, so the difference is what fewer and longer ones could save. The last line is the peak of a
training's gradients. Nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import weakref
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from tabulate import tabulate
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import models.backbone
import models.branches
from benchmarks.shared import LAYERS, SIDE, described
from fdsl.training.step import HeadsStep
from models.backbones.open_clip import OpenClipBackbone
from models.backbones.open_clip_loading import _new_encoder
from models.detector import Detector
from models.methods.fdsl import Fdsl
from models.methods.registry import METHODS
from models.views.sliding_windows import WindowGrid
from utils.config import MethodConfig, WindowConfig
from utils.tile_layout import TileLayout
from utils.views import Views

aten = torch.ops.aten
MODEL, PATCH = "ViT-L-14-336-quickgelu", 14
TILES = TileLayout(2, 2, SIDE // PATCH, PATCH)
TRAINING_BATCH = 8
GEMM, MEMORY = 0.65, 0.8
NO_KERNEL = {
    *("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"),
    *("detach", "lift_fresh", "alias", "_unsafe_view"),
}


class Gpu(NamedTuple):
    """Peaks: dense fp16 with float32 sums and float32, in operations a second; bytes a second."""

    narrow: float
    single: float
    bandwidth: float


GPUS = {
    "H200": Gpu(989e12, 67e12, 4.8e12),
    "A100-80": Gpu(312e12, 19.5e12, 2.0e12),
    "RTX 4090": Gpu(165e12, 82e12, 1.0e12),
}


@dataclass(frozen=True)
class Run:
    """A method looking at a whole image, tiles, or windows of SIZE/STRIDE, fitted to so many references."""

    method: str
    views: str
    shots: int = 1
    index_memory: str = "0"

    def windows(self) -> WindowConfig:
        if "/" not in self.views:
            return WindowConfig("nan", tiles=2 if self.views == "tiles" else 1)
        size, stride = map(int, self.views.split("/"))
        return WindowConfig("mul", size, stride, index_memory=self.index_memory)

    def __str__(self) -> str:
        picks = ", own picks" if self.index_memory == "window" else ""
        return f"{self.method} {self.views}, K={self.shots}{picks}"


RUNS = [
    Run("fdsl", "whole"),
    Run("plus", "whole"),
    Run("plus", "whole", 18),  # as many tokens as four references in eight copies each
    Run("plus", "tiles"),
    Run("fdsl", "13/3"),
    Run("fdsl", "13/2"),
    Run("fdsl", "13/2", 4),
    Run("fdsl", "13/2", 1, "window"),
    Run("plus", "13/2", 2),
]


def add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="rows by their names (default: all)")
    parser.add_argument("--batch", type=int, default=4, help="photographs at once (default 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is printed to it")


def chosen_runs(parser: argparse.ArgumentParser, names: list[str] | None) -> list[Run]:
    """The runs of these names, all without; ends the command for a name of none."""
    known = {str(run): run for run in RUNS}
    if unknown := set(names or ()) - set(known):
        parser.error(f"there is no run {', '.join(sorted(unknown))}; choose from: {'; '.join(known)}")
    return RUNS if names is None else [known[name] for name in names]


@dataclass
class Cost:
    """Of one photograph: see the top of the file. seconds: by GPU."""

    launches: float
    tflop: float
    gigabytes: float
    megabytes_to_device: float
    megabytes_to_host: float
    peak_gib: float
    seconds: dict[str, float]


class Counting(TorchDispatchMode):
    """Counts what operators on tensors of a GPU cost, a kernel at least `shortest` seconds, and what lies
    on the `device`."""

    def __init__(self, shortest: float, device: str = "cuda") -> None:
        super().__init__()
        self.shortest, self.device = shortest, device
        self.stored: dict[int, int] = {}
        self.live = 0
        self.reset()

    def reset(self) -> None:
        self.launches, self.flops, self.bytes, self.peak = 0, 0.0, 0.0, self.live
        self.seconds: Counter[str] = Counter()
        self.crossed: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        made = [one for one in tree_leaves(found) if isinstance(one, torch.Tensor)]
        for one in made:
            if one.device.type == self.device:
                self._keep(one)
        devices = {one.device.type for one in [*given, *made]}
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            self.crossed["to device" if made[0].device.type == "cuda" else "to host"] += given[-1].nbytes
        elif "cuda" in devices and name not in NO_KERNEL and func.namespace == "aten" and not _is_view(func):
            self._count(name, given, made, _flops(func, args, kwargs or {}, found, given))
        return found

    def _count(
        self, name: str, given: list[torch.Tensor], made: list[torch.Tensor], product: tuple[float, bool]
    ) -> None:
        flops, narrow = product
        touched = {id(one): one for one in [*given, *made]}.values()
        moved = sum(_moved(name, one, given, made) for one in touched)
        self.launches, self.flops, self.bytes = self.launches + 1, self.flops + flops, self.bytes + moved
        for gpu, peak in GPUS.items():
            arithmetic = flops / ((peak.narrow if narrow else peak.single) * GEMM)
            self.seconds[gpu] += max(arithmetic, moved / (peak.bandwidth * MEMORY), self.shortest)

    def _keep(self, one: torch.Tensor) -> None:
        storage = one.untyped_storage()
        if storage._cdata not in self.stored:
            self.stored[storage._cdata] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.live -= self.stored.pop(key, 0)

    def cost(self, photographs: int) -> Cost:
        return Cost(
            self.launches / photographs,
            self.flops / photographs / 1e12,
            self.bytes / photographs / 1e9,
            self.crossed["to device"] / photographs / 1e6,
            self.crossed["to host"] / photographs / 1e6,
            self.peak / 2**30,
            {gpu: seconds / photographs for gpu, seconds in self.seconds.items()},
        )


def _is_view(func) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info and not one.alias_info.is_write for one in returns)


def _moved(name: str, one: torch.Tensor, given: list[torch.Tensor], made: list[torch.Tensor]) -> int:
    """Bytes of a tensor that an operator reads or writes."""
    if name in ("index_select", "index", "gather", "embedding") and made and one is given[0]:
        return made[0].nbytes
    return min(one.nbytes, one.untyped_storage().nbytes())  # an expanded tensor has fewer values


def _flops(func, args, kwargs, found, given: list[torch.Tensor]) -> tuple[float, bool]:
    """Operations of a product, and whether its factors are narrow."""
    if (formula := flop_registry.get(func._overloadpacket)) is None:
        return 0.0, True
    return formula(*args, **kwargs, out_val=found), given[-1].dtype in (torch.float16, torch.bfloat16)


def _moved_module(self: nn.Module, function, recurse: bool = True) -> nn.Module:
    """nn.Module._apply without swapping the values of parameters, which fake tensors refuse."""
    for part in self.children():
        part._apply(function)
    for name, value in self._parameters.items():
        if value is not None:
            self._parameters[name] = nn.Parameter(function(value.detach()), requires_grad=False)
    for name, value in self._buffers.items():
        if value is not None:
            self._buffers[name] = function(value)
    return self


def prepare() -> None:
    """Replaces what asks a driver or reads values; for the rest of the process."""
    torch._C._ensureCUDADeviceGuardSet()

    def attention(query, key, value, attn_mask=None):
        return aten._scaled_dot_product_flash_attention(query, key, value)[0]

    def real_windows(*sizes):
        with unset_fake_temporarily():
            return WindowGrid(*sizes)

    torch.Tensor.__bool__ = lambda one: False  # that patches of a reference differ is asked once it is fitted
    nn.functional.scaled_dot_product_attention = attention
    nn.Module._apply = _moved_module
    models.backbone.fingerprint = lambda state: "none"
    models.branches.WindowGrid = real_windows


def measured(
    runs: list[Run], batch: int, dtype: torch.dtype, shortest: float
) -> list[tuple[Run, Cost, Cost]]:
    """Each run with its costs: of fitting a reference and of scoring a photograph."""
    prepare()
    counting, found = Counting(shortest), []
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        visual = _new_encoder(MODEL, "cpu")
        with counting:
            backbone = OpenClipBackbone(visual, LAYERS, torch.device("cuda"), dtype)
            del visual
            for run in runs:
                method = METHODS[run.method].load()(1024, len(LAYERS), MethodConfig())
                detector = Detector(backbone, method, SIDE, run.windows())
                if run.views == "tiles":
                    detector.layout = TILES
                counting.reset()
                detector.fit(empty_views(detector, run.shots))
                fitting = counting.cost(run.shots)
                counting.reset()
                maps = detector(empty_views(detector, batch))
                found.append((run, fitting, counting.cost(batch)))
                del detector, method, maps
    return found


def empty_views(detector: Detector, count: int) -> Views:
    """Photographs as the detector takes them."""
    tiles = [] if detector.layout is None else [len(detector.layout)]
    shapes = [(count, 3, SIDE, SIDE), *((count, number, 3, SIDE, SIDE) for number in tiles)]
    return Views(*(torch.empty(shape, dtype=torch.uint8) for shape in shapes))


def gradients_gib(batch: int) -> float:
    """The peak of memory in GiB while a training's step computes the gradients of all heads, for a batch of
    discrepancies that are there. Fake tensors of a CPU: those of a GPU have no gradients without a driver."""
    counting = Counting(0, "cpu")
    with FakeTensorMode(), counting:
        method = Fdsl(1024, len(LAYERS)).train()
        step = HeadsStep(method, torch.optim.Adam(method.parameters()))
        found = torch.empty(len(LAYERS), batch, (SIDE // PATCH) ** 2, 1024)
        mask = torch.empty(batch, 1, SIDE, SIDE)
        for head, features in zip(method.heads, found):
            step._backward(head, features, mask)
    return counting.peak / 2**30


def main() -> int:
    parser = described(__doc__)
    add_runs(parser)
    parser.add_argument("--precision", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--shortest", type=float, default=2e-6, help="of a kernel, seconds (default 2e-6)")
    args = parser.parse_args()
    runs = chosen_runs(parser, args.runs)
    training = gradients_gib(TRAINING_BATCH)
    rows = measured(runs, args.batch, getattr(torch, args.precision), args.shortest)
    columns = "run, launches, TFLOP, GB, MB in, MB out, peak GiB, fitting GiB".split(", ")
    columns += [f"{gpu} ms" for gpu in GPUS]
    formats = ("", ",.0f", ".2f", ".1f", ".1f", ".1f", ".2f", ".2f", *[".1f"] * len(GPUS))
    table = []
    for run, fitting, cost in rows:
        *counted, seconds = vars(cost).values()
        table.append([str(run), *counted, fitting.peak_gib, *(1e3 * one for one in seconds.values())])
    print(tabulate(table, columns, tablefmt="github", floatfmt=formats))
    print(f"Gradients of a training's batch of {TRAINING_BATCH} peak at {training:.2f} GiB.")
    if args.json is not None:
        runs = [{"run": str(run), **asdict(cost), "fitting": asdict(fitting)} for run, fitting, cost in rows]
        facts = {"batch": args.batch, "precision": args.precision, "gradients_gib": training, "rows": runs}
        args.json.write_text(json.dumps(facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
