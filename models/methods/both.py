"""Trained heads and the nearest distance, on one scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.features import Features
from models.matching.candidates import UNRESTRICTED, Matching, discrepancy_of
from models.matching.memory_bank import MemoryBank
from models.method import BankMethod
from models.methods.fdsl import Fdsl
from models.methods.nearest import nearest_distance
from models.methods.registry import BothFacts
from utils.config import MethodConfig


class Both(BothFacts, BankMethod):
    """2L maps: the heads' probabilities and the distances, each divided by the scale of normal images, so
    that both have the same weight in the mean."""

    scales = ("the heads' maps", "the distances")

    def __init__(self, trained: Fdsl) -> None:
        super().__init__(trained.width, trained.blocks, trained.options)
        self.trained = trained

    @classmethod
    def of_heads(
        cls, width: int, blocks: int, options: MethodConfig, heads: Mapping[str, Tensor] | None
    ) -> Both:
        return cls(Fdsl.of_heads(width, blocks, options, heads))

    def raw_maps(self, query: Features, memory: MemoryBank | None, match: Matching = UNRESTRICTED) -> Tensor:
        discrepancy = discrepancy_of(query, memory, match, self.options)
        return torch.cat([self.trained.probabilities(discrepancy), nearest_distance(discrepancy)])

    def refine(self, raw: Tensor) -> Tensor:
        """The heads' maps are refined by their NAM, the distances are not."""
        probabilities, distances = raw.split(self.blocks)
        return torch.cat([self.trained.refine(probabilities), distances])
