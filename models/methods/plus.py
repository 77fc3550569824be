"""A training-free method whose map and whose image score come from different maps, each the best for its
purpose (docs/methods.md).

A patch's residual is what is left of it when its nearest normal patch is taken away. What the calm half of a
photograph shares is no defect, nor is what lies in directions in which good parts differ among themselves;
both are taken from it. In the map a patch is also raised to what the patches around it that look alike reach.
A score is steadier where a patch must also be unlike the rest of its own photograph, and where it is the mean
of the highest patches instead of the highest alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features import Features
from models.matching import EVERYTHING, Matching
from models.memory_bank import MemoryBank, nearest_index
from models.method import Method, mean_of_highest
from models.methods.bilateral import bilateral
from models.stored import taken
from models.tiles import resized, smoothed
from utils.errors import ModelError

CALM, SPREAD, SELF, SMOOTH, TOP = "calm", "spread", "self", "smooth", "top"
BILATERAL = "bilateral"
EARLY, EARLY_WHOLE, EARLY_SCORE = "early", "early_whole", "early_score"
SPREAD_TOKENS = 8192  # of each block, at most, whose residuals say in which directions good parts differ
EVEN = 0.3  # of the mean eigenvalue: added to each, so that no direction counts without limit
ALIKE = 5  # patches of the same photograph
SIGMA, TILE_SIGMA = 0.5, 0.7  # patches: of the Gauss filters over the maps of whole images and of tiles
TILE_WEIGHT = 2 / 3  # of the tiles in the map


def without_the_shared(residuals: Tensor) -> Tensor:
    """Residuals (L,B,n,C) without what the calm half of each photograph shares: the mean over the half of its
    patches with the shortest ones, for each block."""
    lengths = residuals.square().sum(-1)
    calm = lengths.argsort(-1)[..., : max(1, residuals.shape[2] // 2)]
    shared = residuals.gather(2, calm[..., None].expand(*calm.shape, residuals.shape[3])).mean(
        2, keepdim=True
    )
    return residuals - shared


def weights_of_directions(residuals: Tensor) -> Tensor:
    """Residuals of good parts (M,C) -> the matrix (C,C) float32 by which a residual is multiplied before its
    length counts.

    With e the eigenvalues of mean r r^T and e0 their mean, a direction counts (1 + EVEN) / (e / e0 + EVEN).
    """
    exact = residuals.double() if residuals.device.type != "mps" else residuals.cpu().double()
    values, directions = torch.linalg.eigh(exact.T @ exact / len(exact))
    share = values.clamp(min=0) / values.mean().clamp(min=torch.finfo(torch.float64).tiny)
    return (directions * ((1 + EVEN) / (share + EVEN)).sqrt()).to(residuals)


def unlike_the_rest(tokens: Tensor) -> Tensor:
    """Unit tokens (L,B,n,C) of square photographs or windows -> (L,B,n): half the mean cosine distance of
    each patch to the ALIKE nearest of the same photograph, its own 3 x 3 neighbourhood left out."""
    side = math.isqrt(tokens.shape[2])
    place = torch.arange(side**2, device=tokens.device)
    rows, columns = place // side, place % side
    beside = ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
    alike = max(1, min(ALIKE, side**2 - 9))

    def of(own: Tensor) -> Tensor:
        likeness = (own @ own.transpose(-1, -2)).float().masked_fill_(beside, -1.0)
        return (1 - likeness.topk(alike, -1).values.mean(-1)) / 2

    if torch.compiler.is_compiling():  # a graph has no loop over photographs (models/exported.py)
        return torch.stack([of(photographs) for photographs in tokens])
    found = tokens.new_empty(tokens.shape[:3], dtype=torch.float32)
    for block, photographs in enumerate(tokens):
        for number, own in enumerate(photographs):
            found[block, number] = of(own)
    return found


@dataclass(frozen=True)
class PlusMemory:
    """The bank of normal tokens and, for each block, `weights` (L,C,C) of a residual's directions; None where
    there is no second copy of a reference to see them in, and of tiles."""

    bank: MemoryBank
    weights: Tensor | None

    @classmethod
    def of_bank(cls, bank: MemoryBank) -> PlusMemory:
        """With the weights that the photographs' residuals from each other give."""
        if bank.photographs < 2:
            return cls(bank, None)
        weights = [
            weights_of_directions(_among_themselves(centred, mean, bank.photographs))
            for centred, mean in zip(bank.centred, bank.mean)
        ]
        return cls(bank, torch.stack(weights))

    def state(self) -> dict[str, Tensor]:
        return self.bank.state() if self.weights is None else {**self.bank.state(), "weights": self.weights}

    def without(self, reference: int, references: int) -> PlusMemory:
        """The memory as if one of its `references`, each with its copies in order, had never been seen."""
        bank = self.bank.without(reference, references)
        return PlusMemory(bank, None) if self.weights is None else PlusMemory.of_bank(bank)


def _among_themselves(centred: Tensor, mean: Tensor, photographs: int) -> Tensor:
    """A bank's tokens (M,C) of photographs of equal size, relative to its `mean` (1,C) -> residuals (m,C) of
    some of them, evenly taken, each from its nearest token in another photograph."""
    size = len(centred) // photographs
    step = max(1, math.ceil(len(centred) / SPREAD_TOKENS))
    found = []
    for number in range(photographs):
        own = centred[number * size : (number + 1) * size][::step].float()
        others = torch.cat([centred[: number * size], centred[(number + 1) * size :]])
        index = nearest_index((own + mean).to(centred.dtype), others)
        found.append(own - others[index].float())
    return torch.cat(found)


class Plus(Method[PlusMemory]):
    """2L maps: for each block the squared length of each patch's residual, through a bilateral filter, and
    the same unfiltered beside how unlike the rest of its photograph the patch is. The map is the mean of the
    first, the score comes from the others."""

    name = "plus"
    words = "nearest normal patch, weighed by how good parts differ, with a score of its own; no training"
    sentence = "weighed distance to the nearest normal patch"
    unlike_paper = "no trained heads"
    own_score = "mean of the highest 0.5 % of patches of a map of its own, no test-set scaling"
    hottest = 0.5
    takes_text = True
    groups = 2
    parts = (CALM, SPREAD, SELF, SMOOTH, TOP, BILATERAL, EARLY, EARLY_WHOLE, EARLY_SCORE)
    parts_of_map = (SMOOTH, BILATERAL, EARLY, EARLY_WHOLE)

    def remember(self, parts: Iterable[Features], count: int, match: Matching = EVERYTHING) -> PlusMemory:
        return PlusMemory.of_bank(MemoryBank.collected(parts, count, match))

    def remember_tiles(self, parts: Iterable[Features], count: int) -> PlusMemory:
        return PlusMemory(MemoryBank.collected(parts, count), None)

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> PlusMemory:
        bank, weights = MemoryBank.restored(state, dtype, self.width, self.blocks), None
        if "weights" in state:
            weights = taken(state, "weights", self.blocks, self.width, self.width).float()
        return PlusMemory(bank, weights)

    def raw_maps(self, query: Features, memory: PlusMemory | None, match: Matching = EVERYTHING) -> Tensor:
        distances = self._distances(query, memory, match, SPREAD not in self.options.leave_out)
        shown = scored = distances
        if BILATERAL not in self.options.leave_out:
            shown = bilateral(query.tokens, distances)
        if SELF not in self.options.leave_out:
            scored = (distances * unlike_the_rest(query.tokens)).sqrt()
        return torch.cat([shown, scored])

    def raw_tile_maps(
        self, query: Features, memory: PlusMemory | None, match: Matching = EVERYTHING
    ) -> Tensor:
        """Distances alone (L,B,T*N), the directions not weighed."""
        return self._distances(query, memory, match, weighed=False)

    def _distances(
        self, query: Features, memory: PlusMemory | None, match: Matching, weighed: bool
    ) -> Tensor:
        """A quarter of the squared length (L,B,n) of each patch's residual, what is shared taken away and the
        directions weighed."""
        if memory is None:
            raise ModelError("The detector has no references yet: call remember() first.")
        tokens = query.tokens
        index = match.index(memory.bank, query, self.options.align)
        residuals = memory.bank.discrepancy(tokens.flatten(1, 2), index.flatten(1), "signed").view(
            tokens.shape
        )
        if CALM not in self.options.leave_out:
            residuals = without_the_shared(residuals)
        if weighed and memory.weights is not None:
            residuals = residuals @ memory.weights[:, None]
        return residuals.square().sum(-1).div(4).clamp(max=1)

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the first L maps (B,G,G); of the others each photograph's highest patches (B,)."""
        shown, scored = maps.chunk(2)
        return self._smoothed(shown.mean(0), SIGMA), self._score(scored)

    def with_tiles(self, maps: Tensor, tiles: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """The map (B,side,side) is mostly that of the tiles (L,B,H,W); the score (B,) adds it to the map of
        the score."""
        shown, scored = maps.chunk(2)
        fine = self._as_shown(self._mean(tiles, EARLY), side)
        coarse = resized(self._smoothed(self._mean(shown, EARLY_WHOLE), SIGMA), side)
        both = (1 - TILE_WEIGHT) * coarse + TILE_WEIGHT * fine
        closer = self._as_shown(self._mean(tiles, EARLY_SCORE), side)
        added = F.adaptive_avg_pool2d(closer, scored.shape[-1])
        return both, self._score(scored + added)

    def _mean(self, values: Tensor, part: str) -> Tensor:
        """Values (L,...) -> their mean over blocks (...), of which the first counts L times, the next L - 1
        times and the last once; all alike where that `part` is left out. Early blocks see small defects, and
        see more exactly where one is."""
        if part in self.options.leave_out:
            return values.mean(0)
        weights = torch.arange(len(values), 0, -1, device=values.device, dtype=values.dtype)
        return (weights.view(-1, *[1] * (values.dim() - 1)) * values).sum(0) / weights.sum()

    def _as_shown(self, tiles: Tensor, side: int) -> Tensor:
        """Maps of tiles (...,H,W), smoothed at the size of the map that is shown (...,side,side)."""
        return self._smoothed(resized(tiles, side), TILE_SIGMA)

    def _smoothed(self, maps: Tensor, sigma: float) -> Tensor:
        return smoothed(maps, 0 if SMOOTH in self.options.leave_out else sigma)

    def _score(self, scored: Tensor) -> Tensor:
        """Maps (L,B,G,G) -> the mean (B,) of the highest patches of their mean."""
        if TOP in self.options.leave_out:
            return self._mean(scored.flatten(2).amax(-1), EARLY_SCORE)
        return mean_of_highest(self._mean(scored, EARLY_SCORE))
