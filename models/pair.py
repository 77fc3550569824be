"""A second detector, of another backbone, whose maps and scores are fused with the first one's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from models.features import ScoreMaps
from models.matching import Matching
from models.tiles import resized
from utils.errors import ModelError
from utils.two_sides import TwoSides

if TYPE_CHECKING:
    from models.detector import Detector


class Levels(NamedTuple):
    """How high the maps and the scores of normal photographs come in one detector."""

    peak: float
    score: float


class Second:
    """What a second detector adds to the maps and scores of the first.

    A value v of either becomes v / (v + level), 0.5 where normal photographs come, and the mean of the two
    detectors counts. `levels`: of the first and of the second; None until the references have said them.
    """

    def __init__(self, detector: Detector, first: Detector) -> None:
        self.detector = detector
        self.layout = TwoSides(first.image_size, detector.image_size)
        self.side = max(first.grid, detector.grid)
        self.mean, self.std = first.backbone.mean, first.backbone.std
        known = (self.mean.tolist(), self.std.tolist())
        self.alike = known == (detector.backbone.mean.tolist(), detector.backbone.std.tolist())
        self.levels: tuple[Levels, Levels] | None = None

    def like(self, detector: Detector, first: Detector) -> Second:
        """The same fusion with another second detector of the same backbone."""
        other = Second(detector, first)
        other.levels = self.levels
        return other

    def views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (B,2,3,S,S), normalised for the first backbone -> images (B,3,S1,S1) of the first and
        (B,3,S2,S2) of the second, each normalised as its backbone expects."""
        first, second = self.layout.first, self.layout.second
        return images[:, 0, :, :first, :first], self._renormalised(images[:, 1, :, :second, :second])

    def _renormalised(self, images: Tensor) -> Tensor:
        """Images normalised for the first backbone -> for the second."""
        if self.alike:
            return images
        own = self.detector.backbone
        mean, std, own_mean, own_std = (
            values.to(images).view(3, 1, 1) for values in (self.mean, self.std, own.mean, own.std)
        )
        return (images * std + mean - own_mean) / own_std

    def set_levels(self, first: Levels, second: Levels) -> None:
        """How high normal photographs come; ModelError for zero."""
        if not all(level > 0 for level in (*first, *second)):
            raise ModelError("The references give no level for --second-model: all their maps are zero.")
        self.levels = first, second

    def fused(self, found: ScoreMaps, images: Tensor, match: Matching | None) -> ScoreMaps:
        """The first detector's maps and scores with those that the second gives of its images (B,3,S2,S2);
        as they are, at the size of both, before the levels are known."""
        base = resized(found.base, self.side)
        if self.levels is None:
            return ScoreMaps(base, found.base_score)
        first, second = self.levels
        other = self.detector(images, None if match is None else match.of_tiles())
        shown = resized(other.base, self.side)
        return ScoreMaps(
            (scaled(base, first.peak) + scaled(shown, second.peak)) / 2,
            (scaled(found.base_score, first.score) + scaled(other.base_score, second.score)) / 2,
        )


def scaled(values: Tensor, level: float) -> Tensor:
    """Values v of maps or scores -> v / (v + level): 0.5 where normal photographs come."""
    return values / (values + level)
