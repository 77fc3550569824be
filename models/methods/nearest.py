"""The training-free method: distance to the nearest normal patch, in the place of the trained heads."""

from __future__ import annotations

from torch import Tensor, nn

from models.methods.fdsl import Maps


def nearest_distance(discrepancy: Tensor) -> Tensor:
    """Discrepancies (...,C) between unit tokens -> half their cosine distance (...), in [0,1].

    For unit vectors |T - M|^2 / 4 = (1 - <T,M>) / 2: the discrepancy already holds the distance.
    """
    return discrepancy.float().square().sum(-1).div(4).clamp(max=1)


class NearestHeads(nn.Module):
    """Takes the place of FDSL's heads without anything to train: the map of a block is its
    `nearest_distance`."""

    nam = None

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.width, self.blocks = width, blocks

    def raw_maps(self, discrepancy: Tensor) -> Tensor:
        """Discrepancies (L,B,N,C) of square patch grids -> distances (L,B,G,G)."""
        grid = int(discrepancy.shape[2] ** 0.5)
        return nearest_distance(discrepancy).unflatten(-1, (grid, grid))

    def refine(self, raw: Tensor) -> Maps:
        """There is no neighbour aggregation: the refined maps are the raw ones."""
        return Maps(raw, raw)

    def on_one_scale(self, maps: Tensor) -> Tensor:
        """The maps (L,...) as they are: there is one method only."""
        return maps

    def forward(self, discrepancy: Tensor) -> Maps:
        return self.refine(self.raw_maps(discrepancy))
