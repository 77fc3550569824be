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
    std (3,): of its weights' training, for pixels in [0,1]. fingerprint: identifies its weights. dtype: the
    precision of its products and of its tokens.
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
        """The device that it computes on."""

    def grid(self, side: int) -> int:
        """Patches along one side of an image of `side` pixels; ModelError unless it is a whole number."""

    def encode(
        self, pixels: Tensor, want: frozenset[str] = NOTHING_MORE, side: int | None = None
    ) -> Features:
        """Features of images (B,3,H,H) uint8, which it moves to its device and normalises. `side`: they are
        resized to so many pixels first, a multiple of the patch size (None: H is one). `want`: names of
        features besides the tokens (models/features.py)."""


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels (...,3,H,W) uint8 -> float32: brought to [0,1], then by mean and std (3,) of each channel, on
    their device."""
    return pixels.float().div_(255).sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))
