"""FDSL's trained part: feature discrepancy (FD), anomaly score learning (ASL), neighbour aggregation
(NAM)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN_WIDTHS = (512, 128, 32)


NAM_CHANNELS = 6


NAM_KERNEL = 5


class Maps(NamedTuple):
    """Anomaly probabilities (L,B,G,G): the heads' raw maps, and the refined ones (None without NAM)."""

    raw: Tensor
    refined: Tensor | None


class AnomalyScoreHead(nn.Module):
    """ASL for one block: discrepancies (...,C) -> logits (...,2), normal then anomalous.

    Where the discrepancies are narrower than float32, so is the first product, nine tenths of the work; the
    rest never is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(width)]
        for hidden in HIDDEN_WIDTHS:
            layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, discrepancy: Tensor) -> Tensor:
        normed = self.layers[0](discrepancy.flatten(0, -2))
        hidden = F.linear(normed, self.layers[1].weight.to(normed.dtype))
        return self.layers[2:](hidden.float()).unflatten(0, discrepancy.shape[:-1])


class NeighbourAggregation(nn.Module):
    """NAM: raw anomaly probabilities (...,G,G) -> refined ones of the same shape. One module for all
    blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, NAM_CHANNELS, NAM_KERNEL, padding="same")
        self.conv2 = nn.Conv2d(NAM_CHANNELS, 2, NAM_KERNEL, padding="same")

    def forward(self, raw: Tensor) -> Tensor:
        maps = raw.flatten(0, -3)
        logits = self.conv2(F.relu(self.conv1(torch.stack([1 - maps, maps], dim=1))))
        return logits.softmax(dim=1)[:, 1].unflatten(0, raw.shape[:-2])


class FDSL(nn.Module):
    """All that is trained: one ASL head per tapped block and, with `use_nam`, one NAM shared by them."""

    def __init__(self, width: int, blocks: int, use_nam: bool = True) -> None:
        super().__init__()
        self.width, self.blocks = width, blocks
        self.heads = nn.ModuleList(AnomalyScoreHead(width) for _ in range(blocks))
        self.nam = NeighbourAggregation() if use_nam else None

    def raw_maps(self, discrepancy: Tensor) -> Tensor:
        """Discrepancies (L,B,N,C) of square patch grids -> raw anomaly probabilities (L,B,G,G)."""
        grid = int(discrepancy.shape[2] ** 0.5)
        logits = torch.stack([head(block) for head, block in zip(self.heads, discrepancy)])
        return logits.softmax(dim=-1)[..., 1].unflatten(-1, (grid, grid))

    def refine(self, raw: Tensor) -> Maps:
        """Raw maps (L,B,G,G) with their refined companions."""
        return Maps(raw, self.nam(raw) if self.nam is not None else None)

    def on_one_scale(self, maps: Tensor) -> Tensor:
        """The maps (L,...) as they are: there is one method only."""
        return maps

    def forward(self, discrepancy: Tensor) -> Maps:
        return self.refine(self.raw_maps(discrepancy))
