"""The training-free method: half the cosine distance of each patch to its nearest normal patch."""

from __future__ import annotations

import torch
from torch import Tensor

from models.features import Features
from models.matching.candidates import UNRESTRICTED, Matching, discrepancy_of
from models.matching.discrepancy import in_rows
from models.matching.memory_bank import MemoryBank
from models.method import BankMethod
from models.methods.registry import NearestFacts


def nearest_distance(discrepancy: Tensor) -> Tensor:
    """Discrepancies (...,C) between unit tokens -> half their cosine distance (...), in [0,1].

    For unit vectors |T - M|^2 / 4 = (1 - <T,M>) / 2: the discrepancy already holds the distance.
    """
    rows = in_rows(discrepancy.flatten(0, -2))
    distances = torch.cat([part.float().square().sum(-1).div(4).clamp(max=1) for part in rows])
    return distances.view(discrepancy.shape[:-1])


class Nearest(NearestFacts, BankMethod):
    """L maps, without training: for each feature layer the `nearest_distance` of each patch."""

    hottest = 0.5

    def raw_maps(self, query: Features, memory: MemoryBank | None, match: Matching = UNRESTRICTED) -> Tensor:
        return nearest_distance(discrepancy_of(query, memory, match, self.options))
