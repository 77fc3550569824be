"""The frozen image encoder of every family. Families are in models/backbones/; how to add one:
docs/extending.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.weights_io.check_weights import fingerprint
from models.features import Features
from utils.config import FINAL
from utils.device import sent
from utils.errors import ModelError

NOTHING_MORE: frozenset[str] = frozenset()


class Backbone(nn.Module):
    """A ViT on square patches that is never trained: eval mode, no gradients, one precision, whoever calls
    it. A family gives `encode_normalised`.

    layers: the feature layers, counted from 1, ascending. width: C of its tokens. patch_size: pixels. mean,
    std (3,): of its weights' training, for pixels in [0,1]. fingerprint: identifies its weights (`state`) and
    `token_norm`: FINAL where tokens pass the model's last norm, else they are the raw output of a block.
    dtype: the precision of its products and of its tokens. ModelError for layers that are not among its
    `blocks`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        blocks: int,
        layers: Sequence[int],
        patch_size: int,
        width: int,
        token_norm: str,
        state: dict[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        if not layers or len(set(layers)) != len(layers) or any(not 1 <= layer <= blocks for layer in layers):
            raise ModelError(
                f"--layers {' '.join(map(str, layers))}: give distinct blocks between 1 and {blocks}."
            )
        self.layers = tuple(sorted(layers))
        self.patch_size, self.width, self.dtype = patch_size, width, dtype
        self.final = token_norm == FINAL
        self.fingerprint = fingerprint(state) + (f"-{FINAL}" if self.final else "")
        self.register_buffer("mean", torch.tensor(mean, device=device), persistent=False)
        self.register_buffer("std", torch.tensor(std, device=device), persistent=False)

    def train(self, mode: bool = True) -> Backbone:
        """Frozen: stays in eval mode whatever the caller asks."""
        return super().train(False)

    def grid(self, side: int) -> int:
        """Patches along one side of an image of `side` pixels; ModelError unless it is a whole number."""
        if side < self.patch_size or side % self.patch_size:
            near = nearest_multiple(side, self.patch_size)
            raise ModelError(
                f"--image-size {side} is not a multiple of the patch side {self.patch_size}; "
                f"{near} is the nearest that is."
            )
        return side // self.patch_size

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self.mean.device

    @torch.inference_mode(False)
    @torch.no_grad()
    def encode(
        self, pixels: Tensor, want: frozenset[str] = NOTHING_MORE, side: int | None = None
    ) -> Features:
        """Features of images (B,3,H,H) uint8, which it moves to its device and normalises. `side`: pixels
        that they are resized to then, a multiple of the patch size, bicubic and antialiased (None: H is one).
        `want`: names of features besides the tokens (models/features.py). ValueError for other values than
        uint8."""
        if pixels.dtype != torch.uint8:
            raise ValueError(f"A backbone takes pixels of uint8, not of {pixels.dtype}.")
        self.grid(side or pixels.shape[-1])
        images = normalise(sent(pixels, self.device), self.mean, self.std)
        if side is not None and side != images.shape[-1]:
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)
        return self.encode_normalised(images, want)

    def encode_normalised(self, images: Tensor, want: frozenset[str] = NOTHING_MORE) -> Features:
        """Features of normalised images (B,3,H,H) float32, H a multiple of the patch side."""
        raise NotImplementedError


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels (...,3,H,W) uint8 -> float32: brought to [0,1], then by mean and std (3,) of each channel, on
    their device."""
    return pixels.float().div_(255).sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))


def unit_tokens(blocks: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Tokens of L blocks (B,N,C) float32 -> (L,B,N,C) of unit length in `dtype`, written to their place at
    once; stacked where a graph is traced, which would copy all blocks for each one that is written."""
    if torch.compiler.is_compiling():
        return torch.stack([F.normalize(block, dim=-1).to(dtype) for block in blocks])
    tokens = blocks[0].new_empty((len(blocks), *blocks[0].shape), dtype=dtype)
    for place, block in zip(tokens, blocks):
        place.copy_(F.normalize(block, dim=-1))
    return tokens


def nearest_multiple(side: int, patch_size: int) -> int:
    """The multiple of the patch side, at least one, that is nearest to `side`."""
    return max(1, round(side / patch_size)) * patch_size


def quarters(blocks: int) -> tuple[int, ...]:
    """The blocks at a quarter, a half, three quarters and all of the depth: 6 12 18 24 of 24."""
    return tuple(sorted({max(1, round(blocks * part / 4)) for part in (1, 2, 3, 4)}))
