"""The geometry of tiles: how a photograph with more pixels than the backbone's input is cut, and where its
patches lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from utils.limits import AUTO_TILES, MOST_TILES

OVERLAP = 2  # patches that neighbours share


class Crops(NamedTuple):
    """How tiles are cut, in pixels: the photograph is resized to `width` x `height`, and the tiles begin at
    the `origins` (top, left)."""

    width: int
    height: int
    origins: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TileLayout:
    """rows x columns tiles of grid x grid patches, `patch_size` pixels each; neighbours share OVERLAP
    patches. A tile is as large as the backbone's input: the photograph is resized to `height` x `width`
    patches."""

    rows: int
    columns: int
    grid: int
    patch_size: int

    def __len__(self) -> int:
        return self.rows * self.columns

    @property
    def step(self) -> int:
        """Patches from a tile to the next."""
        return self.grid - min(OVERLAP, self.grid - 1)

    @property
    def height(self) -> int:
        """Patches of all rows together."""
        return (self.rows - 1) * self.step + self.grid

    @property
    def width(self) -> int:
        """Patches of all columns together."""
        return (self.columns - 1) * self.step + self.grid

    @property
    def origins(self) -> Iterator[tuple[int, int]]:
        """The first patch (row, column) of each tile, row by row."""
        for row in range(self.rows):
            yield from ((row * self.step, column * self.step) for column in range(self.columns))

    @property
    def crops(self) -> Crops:
        patch = self.patch_size
        origins = tuple((row * patch, column * patch) for row, column in self.origins)
        return Crops(self.width * patch, self.height * patch, origins)

    def places(self) -> np.ndarray:
        """(T*N,2): the centre of each patch, in shares of the photograph's height and width."""
        rows, columns = np.divmod(np.arange(self.grid**2), self.grid)
        centres = [np.stack([top + rows + 0.5, left + columns + 0.5], axis=1) for top, left in self.origins]
        return np.concatenate(centres) / (self.height, self.width)


def tiles_for(sizes: Sequence[tuple[int, int]], count: int, grid: int, patch_size: int) -> TileLayout | None:
    """The tiles of photographs of these sizes (width, height): about count x count, more along the longer
    side; None for no tiles.

    AUTO_TILES: none where the median photograph has no more pixels than the backbone's input; else as many
    along a side as it has times the input's side, 2 to MOST_TILES.
    """
    side = grid * patch_size
    width, height = (median(size[axis] for size in sizes) for axis in (0, 1))
    if count == AUTO_TILES:
        times = math.sqrt(width * height) / side
        count = min(MOST_TILES, max(2, round(times))) if times > 1 else 1
    if count <= 1:
        return None
    longer = math.sqrt(width / height)
    columns, rows = max(1, round(count * longer)), max(1, round(count / longer))
    return TileLayout(rows, columns, grid, patch_size)
