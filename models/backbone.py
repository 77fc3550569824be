"""The contract of a frozen image encoder. Families are in models/backbones/; how to add one:
docs/extending.md."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from models.features import Features

NOTHING_MORE: frozenset[str] = frozenset()


class Backbone(Protocol):
    """A ViT that is never trained: eval mode, no gradients, one precision, whoever calls it.

    layers: the feature layers, counted from 1, ascending. width: C of its tokens. patch_size: pixels. mean,
    std (3,): what its weights were trained with, for pixels in [0,1]. fingerprint: tells its weights from
    others. dtype: the precision of its products and of the tokens it gives.
    """

    layers: tuple[int, ...]
    width: int
    patch_size: int
    mean: Tensor
    std: Tensor
    fingerprint: str
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def grid(self, side: int) -> int:
        """Patches along one side of an image of `side` pixels; ModelError unless it is a whole number."""

    def encode(
        self, pixels: Tensor, want: frozenset[str] = NOTHING_MORE, side: int | None = None
    ) -> Features:
        """Features of images (B,3,H,H) uint8, which it brings to its device and normalises; `side`: pixels
        that they are resized to first, a multiple of the patch side (None: H is one). `want` names what is
        needed besides the tokens (models/features.py)."""


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels (...,3,H,W) uint8 -> float32: brought to [0,1], then by mean and std (3,) of each channel, on
    their device."""
    return pixels.float().div_(255).sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))
