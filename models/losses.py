"""Losses of FDSL's heads, on probability maps upsampled to the image (docs/design.md, section 2.7)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.views.tile_maps import upsampled

FOCAL_GAMMA = 2
FOCAL_SMOOTHING = 1e-5  # as published: the one-hot target is smoothed by it, and it is added to p_t
DICE_SMOOTHING = 1.0


def focal_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Mean over pixels of -(1 - p_t)^2 log p_t; probability (...,H,W) of the anomalous class, mask in
    {0,1}."""
    target = mask.clamp(FOCAL_SMOOTHING, 1 - FOCAL_SMOOTHING)
    p_t = target * probability + (1 - target) * (1 - probability) + FOCAL_SMOOTHING
    return -((1 - p_t) ** FOCAL_GAMMA * p_t.log()).mean()


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """1 - (2 sum(pm) + 1) / (sum(p) + sum(m) + 1) per image, averaged; probability and mask (B,H,W)."""
    overlap = (probability * mask).flatten(1).sum(1)
    total = probability.flatten(1).sum(1) + mask.flatten(1).sum(1)
    return (1 - (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)).mean()


def map_losses(maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice losses (L,), one per map of `maps` (L,B,G,G), against `mask` (B,1,S,S)."""
    mask = mask[:, 0]
    large = [upsampled(block, mask.shape[-1]) for block in maps]
    return (
        torch.stack([focal_loss(block, mask) for block in large]),
        torch.stack([dice_loss(block, mask) for block in large]),
    )
