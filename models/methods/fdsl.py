"""FDSL's trained part: anomaly score learning (ASL) and neighbour aggregation (NAM), on feature
discrepancies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.features import Features
from models.matching.candidates import UNRESTRICTED, Matching, discrepancy_of
from models.matching.memory_bank import MemoryBank
from models.method import BankMethod
from models.methods.registry import FdslFacts
from utils.config import MethodConfig
from utils.errors import ModelError

HIDDEN_WIDTHS = (512, 128, 32)
NAM_CHANNELS = 6
NAM_KERNEL = 5


class Maps(NamedTuple):
    """Anomaly probabilities (L,B,G,G) of a training step: the raw maps, and the refined ones (None without
    NAM)."""

    raw: Tensor
    refined: Tensor | None


class AnomalyScoreHead(nn.Module):
    """ASL for one feature layer: discrepancies (...,C) -> logits (...,2), normal then anomalous.

    The first product, nine tenths of the work, has the precision of the discrepancies, all others float32.
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
        hidden = F.linear(normed, self.layers[1].get_parameter("weight").to(normed.dtype))
        return self.layers[2:](hidden.float()).unflatten(0, discrepancy.shape[:-1])


class NeighbourAggregation(nn.Module):
    """NAM: raw anomaly probabilities (...,G,G) -> refined ones of the same shape. One module for all
    layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, NAM_CHANNELS, NAM_KERNEL, padding="same")
        self.conv2 = nn.Conv2d(NAM_CHANNELS, 2, NAM_KERNEL, padding="same")

    def forward(self, raw: Tensor) -> Tensor:
        maps = raw.flatten(0, -3)
        logits = self.conv2(F.relu(self.conv1(torch.stack([1 - maps, maps], dim=1))))
        return logits.softmax(dim=1)[:, 1].unflatten(0, raw.shape[:-2])


class Fdsl(FdslFacts, BankMethod):
    """Trained heads: one ASL head per feature layer and one NAM shared by them (docs/design.md, sections 2.5
    and 2.6).

    `with_nam`: whether there is a NAM, trained or to be trained; with `options.use_nam` False maps are not
    refined (ablation). With `options.fd` "none" the heads take the tokens themselves, without references.
    """

    def __init__(
        self, width: int, blocks: int, options: MethodConfig | None = None, with_nam: bool | None = None
    ) -> None:
        super().__init__(width, blocks, options)
        with_nam = self.options.use_nam if with_nam is None else with_nam
        self.heads = nn.ModuleList(AnomalyScoreHead(width) for _ in range(blocks))
        self.nam = NeighbourAggregation() if with_nam else None

    @classmethod
    def of_heads(
        cls, width: int, blocks: int, options: MethodConfig, heads: Mapping[str, Tensor] | None
    ) -> Fdsl:
        if heads is None:
            raise ModelError(
                "There are no trained heads; name them with a checkpoint, or take method nearest."
            )
        method = cls(width, blocks, options, any(name.startswith("nam.") for name in heads))
        method.load_state_dict(heads)
        return method

    @property
    def needs_references(self) -> bool:
        return self.options.fd != "none"

    def raw_maps(self, query: Features, memory: MemoryBank | None, match: Matching = UNRESTRICTED) -> Tensor:
        return self.probabilities(discrepancy_of(query, memory, match, self.options))

    def probabilities(self, discrepancy: Tensor) -> Tensor:
        """ASL: discrepancies (L,B,n,C) -> raw anomaly probabilities (L,B,n)."""
        logits = torch.stack([head(block) for head, block in zip(self.heads, discrepancy)])
        return logits.softmax(dim=-1)[..., 1]

    def refine(self, raw: Tensor) -> Tensor:
        return self.nam(raw) if self.nam is not None and self.options.use_nam else raw

    def maps_of(self, raw: Tensor) -> Maps:
        """Raw maps (L,B,G,G) with the refined ones."""
        return Maps(raw, None if self.nam is None else self.nam(raw))
