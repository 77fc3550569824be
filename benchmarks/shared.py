"""What the benchmarks share: the backbone's flags, a clock, the bare encoder, commands that are watched while
they run, and smaller datasets. Linux only."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fdsl.flags.groups import add_options, add_runtime_flags
from models.backbone import Backbone
from models.backbones.backbone_registry import load_backbone
from utils.config import UNTRAINED, BackboneConfig

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
POLL = 0.1  # seconds
ENCODER_FLAGS = ("model", "pretrained", "model_config", "layers", "image_size")
MODEL, LAYERS, SIDE = "ViT-L-14-336", (6, 12, 18, 24), 518  # the paper's


def described(text: str | None) -> argparse.ArgumentParser:
    """A command line whose help is `text` as it stands."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def backbone_parser(text: str | None, model: str = MODEL) -> argparse.ArgumentParser:
    """A command line with the flags of an untrained backbone, by default the paper's, and of the runtime."""
    parser = described(text)
    add_options(parser, BackboneConfig, lambda option: option.flag not in ("--pretrained", "--token-norm"))
    add_runtime_flags(parser, reads_files=False)
    parser.set_defaults(model=model, layers=list(LAYERS), image_size=SIDE)
    return parser


def untrained_backbone(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Backbone:
    """The backbone of the flags with random weights, which change no time."""
    return load_backbone(args.model, UNTRAINED, args.layers, device, dtype, args.model_config)


def shortest(
    works: Sequence[Callable[[], object]], repeats: int, device: torch.device, warm: bool = True
) -> list[float]:
    """Seconds of each work, the shortest of `repeats` runs, after one that is not counted where `warm`. They
    take turns, for a shared machine's speed changes within seconds."""
    best = [float("inf")] * len(works)
    for number in range(repeats + warm):
        for index, work in enumerate(works):
            wait_for(device)
            begun = time.perf_counter()
            work()
            wait_for(device)
            if number or not warm:
                best[index] = min(best[index], time.perf_counter() - begun)
    return best


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def encode_barely(encoder: Any, images: Tensor, layers: Sequence[int]) -> None:
    """The library's own encoder with nothing around it: feature layers of normalised images, not brought to
    unit length, not copied."""
    encoder.forward_intermediates(
        images,
        indices=[layer - 1 for layer in layers],
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
    )


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
    with tempfile.TemporaryFile("w+") as printed:
        words = command(name, arguments, processes)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=printed, stderr=printed)
        while process.poll() is None:
            for one in (process.pid, *descendants(process.pid)):
                peaks[one] = max(peaks.get(one, 0), peak_bytes(one))
                busy[one] = max(busy.get(one, 0.0), cpu_seconds(one))
            time.sleep(POLL)
        seconds = time.monotonic() - begun
        printed.seek(0)
        assert process.returncode == 0, printed.read()
    return Cost(seconds, max(busy.values()), max(peaks.values()) / 2**30)


def encoder_flags(args: argparse.Namespace) -> dict[str, Any]:
    """The backbone's flags that were given."""
    given = {name: getattr(args, name, None) for name in ENCODER_FLAGS}
    return {name: value for name, value in given.items() if value is not None}


def backbone_words(args: argparse.Namespace, **other: object) -> list[str]:
    """The same as the words of a command line, with others in place of some."""
    words = []
    for name, value in {**encoder_flags(args), **other}.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


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
