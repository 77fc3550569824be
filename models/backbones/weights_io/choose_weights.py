"""Which weights a model is filled with: random ones, those of a file, or those of a tag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from utils.config import UNTRAINED

Built = TypeVar("Built")
UNTRAINED_SEED = 2025


def of_weights(
    model: str,
    pretrained: str,
    untrained: Callable[[str], Any],
    of_file: Callable[[str, Path], Any],
    downloaded: Callable[[str, str], Any],
) -> Any:
    """What one of three gives for a model: untrained weights for "none", those of a file, or of a tag."""
    if pretrained == UNTRAINED:
        return untrained(model)
    file = Path(pretrained)
    return of_file(model, file) if file.is_file() else downloaded(model, pretrained)


def seeded(build: Callable[[], Built]) -> Built:
    """What `build` gives with random weights, always the same; the global random state is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return build()
