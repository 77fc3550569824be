"""Trained heads beside the nearest distance, on one scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.methods.fdsl import FDSL, Maps
from models.methods.nearest import NearestHeads
from utils.errors import ModelError


class BothHeads(nn.Module):
    """Trained heads beside the nearest distance: 2L maps, each measured against what normal parts reach.

    A map m becomes m / (m + level) in [0,1): 0.5 is as high as normal patches come, so that both methods
    count alike in the mean. `levels` (2,): of the heads and of the distance, taken from the references
    (`set_levels`).
    """

    def __init__(self, heads: FDSL) -> None:
        super().__init__()
        self.trained, self.distance = heads, NearestHeads(heads.width, heads.blocks)
        self.width, self.blocks = heads.width, heads.blocks
        self.register_buffer("levels", torch.zeros(2))

    @property
    def nam(self) -> nn.Module | None:
        return self.trained.nam

    def set_levels(self, heads: float, distance: float) -> None:
        """The level of normal patches in each method's maps; ModelError unless both are above zero."""
        if not (heads > 0 and distance > 0):
            raise ModelError(
                "The references give no level for --method both (all their maps are zero); use --method "
                "fdsl or nearest."
            )
        self.levels.copy_(torch.tensor([heads, distance]))

    def raw_maps(self, discrepancy: Tensor) -> Tensor:
        """Discrepancies (L,B,N,C) -> the heads' probabilities, then the distances, (2L,B,G,G), each on its
        own scale."""
        return torch.cat([self.trained.raw_maps(discrepancy), self.distance.raw_maps(discrepancy)])

    def refine(self, raw: Tensor) -> Maps:
        """Maps (2L,B,G,G), the heads' refined by their NAM."""
        heads, distance = raw.split(self.blocks)
        refined = self.trained.refine(heads).refined
        return Maps(raw, None if refined is None else torch.cat([refined, distance]))

    def forward(self, discrepancy: Tensor) -> Maps:
        return self.refine(self.raw_maps(discrepancy))

    def on_one_scale(self, maps: Tensor) -> Tensor:
        """Maps (2L,...) of both methods -> the same ones, each against its method's level; as they are before
        `set_levels`."""
        levels = self.levels.repeat_interleave(self.blocks).view(-1, *[1] * (maps.dim() - 1))
        return torch.where(levels > 0, maps / (maps + levels), maps)
