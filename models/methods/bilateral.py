"""A bilateral filter over an image's distances: the patches of a defect resemble each other, so high values
raise those of similar patches nearby."""

from __future__ import annotations

import torch
from torch import Tensor

SIGMA = 3.0  # patches: of the spatial weights, which are zero from REACH times SIGMA on
REACH = 3.0
TAU = 0.1  # 1 - cosine by which a weight falls to 1/e
ROUNDS = 8


def bilateral(similarity: Tensor, distances: Tensor, near: Tensor) -> Tensor:
    """Cosines (n,n) among the patches of an image, their distances d (n,) and `nearness` (n,n) -> (n,).

    In each of ROUNDS the value of a patch becomes s = sum(w d) / sum(w) over the patches around it, where
    that is higher. w = exp(-r^2 / (2 SIGMA^2)) exp((cos - 1) / TAU) for patches at a distance r of at most
    REACH SIGMA, whose tokens have the cosine cos.
    """
    weights = similarity.sub(1).div_(TAU).exp_().mul_(near)
    weights /= weights.sum(-1, keepdim=True)
    for _ in range(ROUNDS):
        distances = torch.maximum(distances, (weights @ distances[..., None])[..., 0])
    return distances


def nearness(side: int, device: torch.device) -> Tensor:
    """The spatial weights (n,n) of the patches of an image of side x side patches for each other."""
    steps = torch.arange(side, device=device)
    squares = (steps[:, None] - steps).square().float()
    squares = (squares[:, None, :, None] + squares[None, :, None, :]).reshape(side**2, side**2)
    return torch.exp(squares / (-2 * SIGMA**2)) * (squares <= (REACH * SIGMA) ** 2)
