"""Which patches of photographs count: those inside a region of interest by the larger part of their area."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = 0.5  # of a patch's area, from which on it counts


class CountedPatches:
    """The patches that count in photographs with the region of interest `roi` (S,S) uint8, 255 where they are
    evaluated; None: all."""

    def __init__(self, roi: Tensor | None, device: torch.device) -> None:
        """`device`: where the patches are needed."""
        self.roi, self.device = roi, device
        self._of_grids: dict[tuple[int, int], Tensor] = {}

    def of_grid(self, height: int, width: int) -> Tensor:
        """Which of height x width patches count, bool."""
        size = height, width
        if size not in self._of_grids:
            every = torch.ones(size, dtype=torch.bool)
            found = every if self.roi is None else counting(self.roi[None], height, width)[0]
            self._of_grids[size] = found.to(self.device)
        return self._of_grids[size]

    def only(self, maps: Tensor, own: Tensor | None) -> Tensor:
        """Maps (...,B,H,W) with zeros where patches do not count: by the images' own masks (B,S,S), where
        they have some."""
        height, width = maps.shape[-2:]
        if own is not None:
            return maps * counting(own, height, width).to(maps.device)
        return maps if self.roi is None else maps * self.of_grid(height, width)


def counting(roi: Tensor, height: int, width: int) -> Tensor:
    """Masks (B,S,S) uint8 -> which of height x width patches are white by the larger part of their area,
    (B,height,width) bool. An Apple GPU pools no sizes that do not divide: there the CPU does it."""
    roi = roi.cpu() if roi.device.type == "mps" else roi
    return F.adaptive_avg_pool2d(roi.float() / 255, (height, width)) >= HALF
