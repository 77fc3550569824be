"""The frozen CLIP image tower: one set of weights, one position table per patch grid."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import narrow_products, pack_attention

FINGERPRINT_STRIDE = 1009  # a prime, so that the sampled entries do not line up with rows


class ModelError(Exception):
    """A model that cannot be built as asked; the message is one sentence with the cure."""


class Features(NamedTuple):
    """tokens (L,B,N,C), L2-normalised patch tokens of the tapped blocks; embedding (B,D), L2-normalised, or
    None."""

    tokens: Tensor
    embedding: Tensor | None


class FrozenBackbone(nn.Module):
    """A ViT of open_clip that is never trained: eval mode, no gradients and one precision, whoever calls it.

    `layers` counts blocks from 1 (DESIGN: 6, 12, 18, 24). Tokens are the raw output of a block, class token
    dropped, normalised in float32 and kept in `dtype`, in which the blocks' products are taken too.
    """

    def __init__(
        self, visual: nn.Module, layers: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        require_square_vit(visual)
        blocks = len(visual.transformer.resblocks)
        if not layers or len(set(layers)) != len(layers) or any(not 1 <= layer <= blocks for layer in layers):
            raise ModelError(
                f"--layers {' '.join(map(str, layers))}: give distinct blocks between 1 and {blocks}."
            )
        self.layers = tuple(sorted(layers))
        self.patch_size = visual.patch_size[0]
        self.width = visual.conv1.out_channels
        self.fingerprint = fingerprint(visual.state_dict())
        self.native_table = visual.positional_embedding.detach().float()
        self.visual = narrow_products(pack_attention(visual).requires_grad_(False).to(device), dtype)
        self.dtype = dtype
        self._tables: dict[tuple[int, torch.device], nn.Parameter] = {}
        self.train(False)

    @property
    def device(self) -> torch.device:
        return self.visual.conv1.weight.device

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Frozen: stays in eval mode whatever the caller asks."""
        return super().train(False)

    def grid(self, side: int) -> int:
        """Patches along one side of an image of `side` pixels; ModelError unless it is a whole number."""
        if side < self.patch_size or side % self.patch_size:
            near = max(1, round(side / self.patch_size)) * self.patch_size
            raise ModelError(
                f"--image-size {side} is not a multiple of the patch side {self.patch_size}; "
                f"{near} is the nearest that is."
            )
        return side // self.patch_size

    @torch.inference_mode(False)
    @torch.no_grad()
    def encode(self, images: Tensor, embedding: bool = False) -> Features:
        """Features of images (B,3,H,H), normalised with CLIP's mean and std; H a multiple of the patch side.

        Without `embedding` the pass stops after the last tapped block.
        """
        grid = self.grid(images.shape[-1])
        self.visual.positional_embedding = self._table(grid)
        out = self.visual.forward_intermediates(
            images.to(device=self.device, dtype=self.visual.conv1.weight.dtype),
            indices=[layer - 1 for layer in self.layers],
            stop_early=not embedding,
            intermediates_only=not embedding,
            output_fmt="NLC",
        )
        tokens = torch.stack(
            [F.normalize(block.float(), dim=-1).to(self.dtype) for block in out["image_intermediates"]]
        )
        pooled = F.normalize(out["image_features"].float(), dim=-1) if embedding else None
        return Features(tokens, pooled)

    def _table(self, grid: int) -> nn.Parameter:
        key = grid, self.device
        if key not in self._tables:
            table = resize_position_table(self.native_table, grid).to(self.visual.conv1.weight)
            self._tables[key] = nn.Parameter(table, requires_grad=False)
        return self._tables[key]


def require_square_vit(visual: nn.Module) -> None:
    """ModelError for an image tower that is not open_clip's own Vision Transformer on square images and
    patches."""
    if not isinstance(visual, open_clip.transformer.VisionTransformer):
        raise ModelError(
            f"The image tower is a {type(visual).__name__}, not a Vision Transformer of open_clip (SigLIP, EVA, "
            "ViTamin and others come from timm); choose for instance ViT-L-14-336-quickgelu or ViT-B-16-quickgelu."
        )
    for what, (height, width) in (("images", visual.image_size), ("patches", visual.patch_size)):
        if height != width:
            raise ModelError(
                f"The image tower takes {what} of {height} x {width} px; only square ones work here."
            )


def resize_position_table(table: Tensor, grid: int) -> Tensor:
    """(1+g*g, C) position table, class token first -> (1+grid*grid, C), bicubic and antialiased as in
    open_clip."""
    own = math.isqrt(table.shape[0] - 1)
    if own == grid:
        return table
    patches = table[1:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], patches.permute(0, 2, 3, 1).reshape(grid * grid, -1)])


def fingerprint(state: dict[str, Tensor]) -> str:
    """Hex digest of a state dict's names, shapes and a strided sample of its float32 values.

    Tells one set of weights from another in milliseconds; not a defence against forgery.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().reshape(-1)
        sample = torch.cat([values[:64], values[::FINGERPRINT_STRIDE]]).float().cpu().contiguous()
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]
