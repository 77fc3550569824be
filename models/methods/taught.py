"""What drawn defects teach a method about its maps: how much each counts where a defect is.

A patch's probability is that of a logistic regression over the logarithms of its heights on all maps. No map
counts against a defect: no weight is below zero, so that what is higher everywhere stays higher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOWEST = 1e-6  # of a map: lower heights count as this one
FLATTEST = 1e-3  # deviation of logarithms that they are divided by
STEPS, RATE, BEGIN = 300, 0.3, -2.0  # Adam's; the softplus of BEGIN is each weight at first


class Taught(nn.Module):
    """weights (M,) of the logarithms of M maps, and an `offset` (): all zero before `learn`."""

    weights: Tensor
    offset: Tensor

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(maps))
        self.register_buffer("offset", torch.zeros(()))

    def forget(self) -> None:
        self.weights.zero_()
        self.offset.zero_()

    def learn(self, heights: Tensor, masks: Tensor) -> None:
        """From the heights (M,n,S,S) of n photographs, and where their defects are (n,P,P), 0 and 1."""
        defect = F.adaptive_avg_pool2d(masks[:, None].to(heights), heights.shape[-1])
        weights, offset = regression(_logarithms(heights).flatten(1), defect.flatten())
        self.weights.copy_(weights)
        self.offset.copy_(offset)

    def forward(self, shown: Tensor, heights: Tensor) -> Tensor:
        """A map (B,S,S) and heights (M,B,S,S) -> the geometric mean of the map and of the probability of a
        defect; before `learn` the map as it is."""
        odds = (self.weights.view(-1, 1, 1, 1) * _logarithms(heights)).sum(0) + self.offset
        return torch.where(self.weights.any(), (shown * odds.sigmoid()).sqrt(), shown)


def _logarithms(heights: Tensor) -> Tensor:
    return heights.clamp(min=LOWEST).log()


def regression(logarithms: Tensor, defect: Tensor) -> tuple[Tensor, Tensor]:
    """(M,N) and how much of each patch is a defect (N,) -> the weights (M,), not below zero, and the offset
    () of the logistic regression; the same numbers give the same."""
    with torch.inference_mode(False), torch.enable_grad():
        mean, spread = logarithms.mean(1), logarithms.std(1).clamp(min=FLATTEST)
        scaled = ((logarithms - mean[:, None]) / spread[:, None]).T.clone()
        wanted, before = defect.clone(), torch.full_like(mean, BEGIN).clone().requires_grad_()
        offset = wanted.mean().clamp(LOWEST, 1 - LOWEST).logit().requires_grad_()
        optimiser = torch.optim.Adam([before, offset], lr=RATE)
        for _ in range(STEPS):
            optimiser.zero_grad()
            odds = scaled @ F.softplus(before) + offset
            F.binary_cross_entropy_with_logits(odds, wanted).backward()
            optimiser.step()
    weights = F.softplus(before.detach()) / spread
    return weights, offset.detach() - (weights * mean).sum()
