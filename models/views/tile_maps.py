"""Maps of tiles: joined, smoothed, and resized to a detector's maps."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.tile_layout import TileLayout

FINER = 2  # maps of a detector with tiles have so many times the patches of the backbone's input along a side


def join_tiles(maps: Tensor, layout: TileLayout) -> Tensor:
    """Maps of a photograph's tiles (...,T*N), N = grid x grid -> (...,height,width): the mean where tiles
    overlap."""
    tiles = maps.unflatten(-1, (len(layout), layout.grid, layout.grid))
    total = maps.new_zeros((*maps.shape[:-1], layout.height, layout.width))
    count = maps.new_zeros((layout.height, layout.width))
    for number, (row, column) in enumerate(layout.origins):
        part = (..., slice(row, row + layout.grid), slice(column, column + layout.grid))
        total[part].add_(tiles[..., number, :, :])  # += would copy the slice again
        count[part].add_(1)
    return total / count


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Maps (...,H,W) after a Gaussian filter of `sigma` patches, cut at 4 sigma; edges are replicated."""
    if sigma == 0:
        return maps
    radius = math.ceil(4 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    flat = F.pad(flat, (radius, radius, radius, radius), mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.view(maps.shape)


@lru_cache(maxsize=4)
def _interpolation(count: int, side: int, device: torch.device) -> Tensor:
    """(side,count) float32: the weights of `count` values in linear interpolation at `side` places, corners
    aligned."""
    places = torch.linspace(0, count - 1, side, dtype=torch.float64)[:, None]
    return (1 - (places - torch.arange(count)).abs()).clamp(min=0).to(device, torch.float32)


def upsampled(maps: Tensor, side: int) -> Tensor:
    """As `resized`, for maps with gradients. A GPU computes two products, whose sums have a fixed order:
    PyTorch's deterministic interpolation sorts every pixel."""
    if not maps.is_cuda:
        return resized(maps, side)
    rows, columns = (_interpolation(count, side, maps.device) for count in maps.shape[-2:])
    return rows @ maps @ columns.T


def resized(maps: Tensor, side: int) -> Tensor:
    """Maps (...,H,W) -> (...,side,side): bilinear, corners aligned, as maps are evaluated and displayed."""
    if maps.shape[-2:] == (side, side):
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    flat = F.interpolate(flat, size=(side, side), mode="bilinear", align_corners=True)
    return flat.view(*maps.shape[:-2], side, side)
