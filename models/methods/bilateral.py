"""A bilateral filter over a photograph's distances, guided by its tokens: the patches of a defect look alike,
and what some of them are found to be speaks for the others nearby."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIGMA = 3.0  # patches: of the weights by place, which end at REACH times as many
REACH = 3.0
TAU = 0.1  # 1 - cosine by which a weight falls to 1/e
ROUNDS = 8


def bilateral(tokens: Tensor, distances: Tensor) -> Tensor:
    """Unit tokens (L,B,n,C) of square photographs or windows, and their distances d (L,B,n) -> (L,B,n).

    In each of ROUNDS every patch is raised to s = sum(w d) / sum(w) over the patches around it, where that is
    higher. w = exp(-r^2 / (2 SIGMA^2)) exp((cos - 1) / TAU), of patches r apart, no further than REACH SIGMA,
    whose tokens have the cosine cos.
    """
    near = _nearness(math.isqrt(tokens.shape[2]), tokens.device)

    def of(own: Tensor, heights: Tensor) -> Tensor:
        weights = (own @ own.transpose(-1, -2)).float().sub_(1).div_(TAU).exp_().mul_(near)
        weights /= weights.sum(-1, keepdim=True)
        for _ in range(ROUNDS):
            heights = torch.maximum(heights, (weights @ heights[..., None])[..., 0])
        return heights

    if torch.compiler.is_compiling():  # a graph has no loop over photographs (models/exported.py)
        return torch.stack([of(*block) for block in zip(tokens, distances)])
    found = torch.empty_like(distances)
    for block, photographs in enumerate(tokens):
        for number, own in enumerate(photographs):
            found[block, number] = of(own, distances[block, number])
    return found


def _nearness(side: int, device: torch.device) -> Tensor:
    """How much patches (n,n) of a square photograph count for each other by their places."""
    place = torch.arange(side**2, device=device)
    rows, columns = place // side, place % side
    squares = ((rows[:, None] - rows).square() + (columns[:, None] - columns).square()).float()
    return torch.exp(squares / (-2 * SIGMA**2)) * (squares <= (REACH * SIGMA) ** 2)
