"""What the benchmarks share: the backbone's flags, clocks, the bare encoder and the cost of a command."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fdsl.flags.groups import add_options
from models.backbone import Backbone
from models.backbones.backbone_registry import load_backbone
from utils.config import UNTRAINED, BackboneConfig, RuntimeOptions

ROOT = Path(__file__).resolve().parents[1]
ENCODER_FLAGS = ("model", "pretrained", "model_config", "layers", "image_size")
MODEL, LAYERS, SIDE = "ViT-L-14-336", (6, 12, 18, 24), 518  # the paper's
# A small process between, for a new one's peak begins at that of the process that started it.
CLOCK = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
seconds, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def described(text: str | None) -> argparse.ArgumentParser:
    """A command line whose help is `text` as it stands."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def backbone_parser(text: str | None, model: str = MODEL) -> argparse.ArgumentParser:
    """A command line with the flags of an untrained backbone, by default the paper's, and of the runtime."""
    parser = described(text)
    add_options(parser, BackboneConfig, only=lambda one: one.flag not in ("--pretrained", "--token-norm"))
    add_options(parser, RuntimeOptions, only=lambda one: one.name != "workers")
    parser.set_defaults(model=model, layers=list(LAYERS), image_size=SIDE)
    return parser


def untrained_backbone(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Backbone:
    """The backbone of the flags with random weights, which change no time."""
    config = BackboneConfig(args.model, UNTRAINED, args.model_config, tuple(args.layers))
    return load_backbone(config, device, dtype)


def shortest(
    works: Sequence[Callable[[], object]], repeats: int, device: torch.device, warm: bool = True
) -> list[float]:
    """Seconds of each work, the shortest of `repeats` runs, after one that is not counted where `warm`. They
    take turns, for a shared machine's speed changes within seconds."""
    best = [float("inf")] * len(works)
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    for number in range(repeats + warm):
        for index, work in enumerate(works):
            wait()
            begun = time.perf_counter()
            work()
            wait()
            if number or not warm:
                best[index] = min(best[index], time.perf_counter() - begun)
    return best


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


class Cost(NamedTuple):
    """Of a command, from its start to its end: seconds; the processor's seconds of all its processes; the MiB
    of the largest one."""

    seconds: float
    busy: float
    memory: float


def cost_of(words: Sequence[str]) -> Cost:
    """Runs a Python script in the project's root; SystemExit with what it printed where it fails."""
    ran = [sys.executable, "-c", CLOCK, sys.executable, *words]
    done = subprocess.run(ran, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(words)}: {done.stderr}")
    seconds, busy, kibibytes = json.loads(done.stdout)
    return Cost(seconds, busy, kibibytes / 2**10)


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
