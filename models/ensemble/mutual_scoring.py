"""Mutual scoring of the test images added to a method with references, on one scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.features import Features, ScoreMaps
from models.methods.batch import Batch, BatchMemory
from models.views.tile_maps import resized
from utils.errors import ModelError


class MutualScoring:
    """What mutual scoring adds to the maps and scores of a method.

    A value v of either becomes v / (v + level), 0.5 where normal photographs come, and the mean of the two
    counts. A level is how high photographs come: for the method's own map and score the held-out references
    (`own`), for mutual scoring the median of the test images (`levels`), of which most are to be
    good.
    """

    def __init__(self, width: int, blocks: int) -> None:
        self.batch = Batch(width, blocks)
        self.memory: BatchMemory | None = None
        self.levels: tuple[float, float] | None = None  # of maps and of scores
        self.own: tuple[float, float] | None = None

    def saw(self, memory: BatchMemory, grid: int, like: Tensor) -> None:
        """Takes in the test images; each is scored by the others, in the precision and on the
        device of `like`, and not again."""
        found = [
            self._scored(Features(photograph[:, None].to(like), shown=(number,)), grid, memory)
            for number, photograph in enumerate(memory.tokens_for(like))
        ]
        peaks = torch.stack([shown.max() for shown, _ in found]).cpu()
        scores = torch.cat([score for _, score in found]).cpu()
        self.memory, self.levels = memory, (_level(peaks.quantile(0.5)), _level(scores.quantile(0.5)))

    def set_own(self, peak: float, score: float) -> None:
        """How high the method's own maps and scores come for normal photographs; ModelError for zero."""
        if not (peak > 0 and score > 0):
            raise ModelError("The references give no level for --with-batch: all their maps are zero.")
        self.own = (peak, score)

    def added(self, found: ScoreMaps, features: Features) -> ScoreMaps:
        """The maps and scores of a method with those of mutual scoring; as they are before the method's own
        levels are known."""
        if self.own is None:
            return found
        if self.memory is None or self.levels is None:
            raise ModelError("The detector has no test images yet: call take_test_images() first.")
        grid = math.isqrt(features.tokens.shape[2])
        shown, score = self._scored(features, grid, self.memory)
        map_level, score_level = self.levels
        shown = scaled(resized(shown, found.base.shape[-1]), map_level)
        score = scaled(score, score_level)
        own_map, own_score = self.own
        base = (scaled(found.base, own_map) + shown) / 2
        base_score = (scaled(found.base_score, own_score) + score) / 2
        if found.window is None or found.window_score is None:
            return ScoreMaps(base, base_score)
        window = (scaled(found.window, own_map) + shown) / 2
        return ScoreMaps(base, base_score, window, (scaled(found.window_score, own_score) + score) / 2)

    def _scored(self, features: Features, grid: int, memory: BatchMemory) -> tuple[Tensor, Tensor]:
        """A map (B,G,G) and a score (B,) of mutual scoring."""
        raw = self.batch.raw_maps(features, memory).unflatten(-1, (grid, grid))
        return self.batch.summarise(raw)


def _level(value: Tensor) -> float:
    """ModelError for a level of zero, by which nothing can be measured."""
    if not value > 0:
        raise ModelError("The test images are all alike: they cannot be compared with each other.")
    return float(value)


def scaled(values: Tensor, level: float) -> Tensor:
    """Values v of maps or scores -> v / (v + level): 0.5 where normal photographs come."""
    return values / (values + level)
