"""Frozen image towers of open_clip: one set of weights, one position table for each patch grid."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from models.backbone import NOTHING_MORE, normalise
from models.backbones.attention import narrow_products, pack_attention
from models.backbones.open_clip_towers import (
    UNTRAINED,
    downloaded_tower,
    normalisation_of,
    register_model_configs,
    require_square_vit,
    tower_of_file,
    untrained_tower,
)
from models.backbones.weights import fingerprint
from models.features import EMBEDDING, RAW_TOKENS, Features
from utils.errors import ModelError


class OpenClipBackbone(nn.Module):
    """A ViT of open_clip as a `Backbone` (models/backbone.py).

    `layers` counts blocks from 1. Tokens are the raw output of a block, class token dropped, normalised in
    float32 and kept in `dtype`, in which the blocks' products are taken too. `mean` and `std`: OpenAI's
    unless the weights name others.
    """

    def __init__(
        self,
        visual: VisionTransformer,
        layers: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        mean: Sequence[float] = open_clip.OPENAI_DATASET_MEAN,
        std: Sequence[float] = open_clip.OPENAI_DATASET_STD,
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
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self._tables: dict[tuple[int, torch.device], nn.Parameter] = {}
        self.train(False)

    @property
    def device(self) -> torch.device:
        return self.visual.conv1.weight.device

    def train(self, mode: bool = True) -> OpenClipBackbone:
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

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels (...,3,H,W) uint8 -> float32 with the weights' mean and standard deviation."""
        return normalise(pixels, self.mean, self.std)

    @torch.inference_mode(False)
    @torch.no_grad()
    def encode(self, images: Tensor, want: frozenset[str] = NOTHING_MORE) -> Features:
        """Features of normalised images (B,3,H,H); H a multiple of the patch side.

        Where no embedding is wanted the pass stops after the last tapped block.
        """
        embedding = EMBEDDING in want
        self.visual.positional_embedding = self.position_table(self.grid(images.shape[-1]))
        out = self.visual.forward_intermediates(
            images.to(device=self.device, dtype=self.visual.conv1.weight.dtype),
            indices=[layer - 1 for layer in self.layers],
            stop_early=not embedding,
            intermediates_only=not embedding,
            output_fmt="NLC",
        )
        blocks = [block.float() for block in out["image_intermediates"]]
        tokens = torch.stack([F.normalize(block, dim=-1).to(self.dtype) for block in blocks])
        pooled = F.normalize(out["image_features"].float(), dim=-1) if embedding else None
        return Features(tokens, pooled, torch.stack(blocks) if RAW_TOKENS in want else None)

    def position_table(self, grid: int) -> nn.Parameter:
        """The tower's position table for `grid` x `grid` patches, made once for each grid and device."""
        key = grid, self.device
        if key not in self._tables:
            table = resize_position_table(self.native_table, grid).to(self.visual.conv1.weight)
            self._tables[key] = nn.Parameter(table, requires_grad=False)
        return self._tables[key]


def resize_position_table(table: Tensor, grid: int) -> Tensor:
    """(1+g*g, C) position table, class token first -> (1+grid*grid, C), bicubic and antialiased as in
    open_clip."""
    own = math.isqrt(table.shape[0] - 1)
    if own == grid:
        return table
    patches = table[1:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], patches.permute(0, 2, 3, 1).reshape(grid * grid, -1)])


def load_open_clip(
    model: str,
    pretrained: str,
    layers: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    model_config: str | None = None,
) -> OpenClipBackbone:
    """Builds `model` with open_clip and fills its image tower.

    `pretrained`: a tag of open_clip (downloaded and cached by it), a FILE with a whole CLIP or its image
    tower, or "none" (untrained weights from a fixed seed). `model_config`: a folder of further open_clip
    model JSONs. Raises ModelError for an unknown model or tag, weights that cannot be fetched, an incomplete
    file.
    """
    if model_config is not None:
        register_model_configs(model_config)
    if model not in open_clip.list_models():
        near = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.4)
        raise ModelError(
            f"--model {model} is not known to open_clip"
            f"{'; near names: ' + ', '.join(near) if near else ''}; other models need --model-config DIR."
        )
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    if pretrained == UNTRAINED:
        visual = untrained_tower(model)
    elif Path(pretrained).is_file():
        visual = tower_of_file(model, Path(pretrained))
    else:
        visual = downloaded_tower(model, pretrained)
        mean, std = normalisation_of(model, pretrained)
    return OpenClipBackbone(visual, layers, torch.device(device), dtype, mean, std)
