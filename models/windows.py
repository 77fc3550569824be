"""Geometry of local-enhanced feature extraction (LFE): where windows lie, how they are cut and put together."""

from __future__ import annotations

import torch
from torch import Tensor


def window_origins(grid: int, size: int, stride: int) -> list[int]:
    """First patch of each window along one axis: 0, stride, ... and a last one clamped to the border.

    Every patch is covered whatever the stride <= size; ValueError for a window that does not fit.
    """
    if not 1 <= size <= grid:
        raise ValueError(f"--win-size {size} does not fit a grid of {grid} patches; give 1 to {grid}.")
    if not 1 <= stride <= size:
        raise ValueError(f"--win-stride {stride} would leave patches uncovered or not move; give 1 to {size}.")
    last = grid - size
    return [*range(0, last, stride), last]


class WindowGrid:
    """All square windows of `size` patches on a `grid` x `grid` image, row by row, `stride` patches apart.

    `patches` (W, size*size): the image's patch index under each window's patches.
    """

    def __init__(self, grid: int, size: int, stride: int) -> None:
        self.grid, self.size, self.stride = grid, size, stride
        origins = window_origins(grid, size, stride)
        self.origins = [(row, column) for row in origins for column in origins]
        rows, columns = torch.tensor(self.origins).unbind(1)
        offset = torch.arange(size)
        self.patches = ((rows[:, None, None] + offset[:, None]) * grid
                        + columns[:, None, None] + offset).flatten(1)

    def __len__(self) -> int:
        return len(self.origins)

    def cut(self, image: Tensor, patch_size: int) -> Tensor:
        """Image (3,S,S) -> windows (W,3,size*patch_size,size*patch_size), in the order of `origins`."""
        side = self.size * patch_size
        return torch.stack([image[:, row * patch_size:row * patch_size + side,
                                  column * patch_size:column * patch_size + side] for row, column in self.origins])

    def stitch(self, windows: Tensor) -> Tensor:
        """Window maps (...,W,size,size) -> (...,G,G): every patch is the mean of the windows that cover it.

        Sums by gathering in a fixed order, so that the result does not depend on the device's atomics.
        """
        covering, count = self._covering(windows.device)
        values = windows.flatten(-3)
        values = torch.cat([values, values.new_zeros(values.shape[:-1] + (1,))], dim=-1)
        total = values[..., covering].sum(-1)
        return (total / count).unflatten(-1, (self.grid, self.grid))

    def _covering(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(G*G, most) positions in the flattened window maps that cover each patch (padded), and how many do."""
        if getattr(self, "_covering_device", None) != device:
            flat = self.patches.flatten()
            order = flat.argsort(stable=True)
            count = torch.bincount(flat, minlength=self.grid ** 2)
            start = count.cumsum(0) - count
            position = torch.arange(flat.numel()) - start[flat[order]]
            covering = torch.full((self.grid ** 2, int(count.max())), flat.numel())
            covering[flat[order], position] = order
            self._cached = covering.to(device), count.to(device)
            self._covering_device = device
        return self._cached
