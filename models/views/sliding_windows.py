"""The geometry of local-enhanced feature extraction (LFE): windows, their cuts, and the maps stitched from
them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.device import sent

BORDER = 3  # patches


def window_origins(grid: int, size: int, stride: int) -> list[int]:
    """The first patch of each window along one axis: 0, stride, ... and a last one clamped to the border.

    Every patch is covered; ValueError for a window that does not fit or a stride above its size.
    """
    if not 1 <= size <= grid:
        raise ValueError(f"--win-size {size} does not fit a grid of {grid} patches; give 1 to {grid}.")
    if not 1 <= stride <= size:
        raise ValueError(
            f"--win-stride {stride} would leave patches uncovered or not move; give 1 to {size}."
        )
    last = grid - size
    return [*range(0, last, stride), last]


class WindowGrid:
    """All square windows of `size` patches on a `grid` x `grid` image, row by row, `stride` patches apart.

    `patches` (W, size*size): the image's patch index under each window's patches; `covering`: the fewest
    windows that together cover every patch. `encoded`: patches along a side of a window that is resized for
    the backbone (0: `size`); `seen` (W, encoded*encoded): the image's patch under the middle of each of them.
    """

    def __init__(self, grid: int, size: int, stride: int, encoded: int = 0) -> None:
        self.grid, self.size, self.encoded = grid, size, encoded or size
        origins = window_origins(grid, size, stride)
        self.origins = [(row, column) for row in origins for column in origins]
        fewest = _fewest_that_cover(origins, size)
        self.covering = [number for number, place in enumerate(self.origins) if set(place) <= fewest]
        rows, columns = torch.tensor(self.origins).unbind(1)
        offset = torch.arange(size)
        middle = ((2 * torch.arange(self.encoded) + 1) * size) // (2 * self.encoded)
        self.patches, self.seen = (
            ((rows[:, None, None] + at[:, None]) * grid + columns[:, None, None] + at).flatten(1)
            for at in (offset, middle)
        )
        self._counts = {torch.device("cpu"): self._count_of(self.patches)}
        self._seen: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return len(self.origins)

    def cut(self, image: Tensor, patch_size: int, chosen: Sequence[int] | None = None) -> Tensor:
        """Images (...,3,S,S) -> windows (...,W,3,size*patch_size,size*patch_size), in the order of `origins`
        or of `chosen`."""
        side = self.size * patch_size
        places = self.origins if chosen is None else [self.origins[window] for window in chosen]
        corners = [(row * patch_size, column * patch_size) for row, column in places]
        cut = [image[..., top : top + side, left : left + side] for top, left in corners]
        return torch.stack(cut, dim=-4)

    def seen_in(self, which: Sequence[int], device: torch.device) -> Tensor:
        """`seen` of some of the windows, on a device, to which it is copied once."""
        if device not in self._seen:
            self._seen[device] = sent(self.seen, device)
        seen = self._seen[device]
        first, last = which[0], which[-1] + 1
        if last - first == len(which):
            return seen[first:last]  # consecutive: no index has to be copied
        return seen[sent(torch.tensor(which), device)]

    def as_cut(self, maps: Tensor) -> Tensor:
        """Maps of encoded windows (M,W,encoded*encoded) -> (M,W,size,size), bilinear and antialiased where
        the sizes differ."""
        maps = maps.unflatten(-1, (self.encoded, self.encoded))
        if self.encoded == self.size:
            return maps
        size = (self.size, self.size)
        return F.interpolate(maps, size=size, mode="bilinear", antialias=True, align_corners=False)

    def stitch(
        self, maps: Tensor, chosen: Sequence[int] | None = None, elsewhere: Tensor | None = None
    ) -> Tensor:
        """Window maps (...,W,size,size) -> (...,G,G): every patch is the mean of the windows that cover it.

        `chosen`: the maps are of these windows only; a patch that none of them covers gets its value of
        `elsewhere` (...,G,G). Windows are added one by one, so that the result does not depend on a device's
        atomics.
        """
        total = maps.new_zeros((*maps.shape[:-3], self.grid, self.grid))
        for number, window in enumerate(range(len(self)) if chosen is None else chosen):
            row, column = self.origins[window]
            part = total[..., row : row + self.size, column : column + self.size]
            part.add_(maps[..., number, :, :])
        count = self._count(chosen, maps)
        mean = total / count.clamp(min=1)
        return mean if elsewhere is None else torch.where(count > 0, mean, elsewhere)

    def _count(self, chosen: Sequence[int] | None, like: Tensor) -> Tensor:
        """The number of windows, all or the chosen ones, that cover each patch (G,G)."""
        if chosen is not None:
            return sent(self._count_of(self.patches[list(chosen)]), like.device)
        if like.device not in self._counts:
            self._counts[like.device] = sent(self._counts[torch.device("cpu")], like.device)
        return self._counts[like.device]

    def _count_of(self, patches: Tensor) -> Tensor:
        """The number of windows of these patches that cover each one of the image (G,G) float32."""
        return patches.flatten().bincount(minlength=self.grid**2).view(self.grid, self.grid).float()

    def choose(self, weight: Tensor, budget: int) -> list[int]:
        """At most `budget` windows for a map of weights (G,G), in the order of `origins`.

        First the `covering` ones, if they are no more than half the budget. Then, greedily, the window with
        the largest sum of weights, where a patch that n chosen windows cover has 1/(1+n) of its weight: so a
        high spot is in several windows before the rest of the image is in more. Near a window's border, where
        a patch has little surroundings, it counts and covers less (`inwardness`).
        """
        if budget >= len(self):
            return list(range(len(self)))
        weight, count = weight.detach().cpu().double(), torch.zeros(self.grid, self.grid, dtype=torch.float64)
        free, inside = torch.ones(len(self), dtype=torch.bool), inwardness(self.size).flatten()
        first = self.covering if 2 * len(self.covering) <= budget else []
        for window in first:
            free[window] = False
            count.view(-1)[self.patches[window]] += inside
        for _ in range(budget - len(first)):
            gain = (weight / (1 + count)).flatten()[self.patches] @ inside
            best = int(torch.where(free, gain, -1.0).argmax())
            free[best] = False
            count.view(-1)[self.patches[best]] += inside
        return (~free).nonzero()[:, 0].tolist()


def _fewest_that_cover(origins: Sequence[int], size: int) -> set[int]:
    """The fewest of one axis' origins whose windows cover all patches: each the farthest without a gap."""
    chosen = [origins[0]]
    while chosen[-1] != origins[-1]:
        chosen.append(max(origin for origin in origins if origin <= chosen[-1] + size))
    return set(chosen)


def inwardness(size: int) -> Tensor:
    """(size, size) float64: 1 inside a window, falling to 1/BORDER per axis over its BORDER outermost
    patches."""
    steps = torch.arange(size, dtype=torch.float64)
    axis = ((torch.minimum(steps, size - 1 - steps) + 1) / BORDER).clamp(max=1)
    return axis[:, None] * axis
