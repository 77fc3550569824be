"""References as photographs that their detector does not know: thresholds and the scales of methods rest on
them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.variants import rotated_places, rotated_tile_places, varied
from fdsl.evaluation import fused_scores
from fdsl.scoring import Scorer
from fdsl.thresholds import COPY, HELD_OUT, LENIENT, STRICT, NormalScores
from models.detector import Detector
from models.features import ScoreMaps
from models.matching import Elsewhere, Matching
from models.pair import Levels, Second
from utils.tile_layout import TileLayout

BATCH = 4
COPIES, SINGLE_COPIES = 4, 8  # varied copies of each reference; of one that stands alone


@dataclass(frozen=True)
class UnknownBatch:
    """Photographs of good parts (B,3,S,S) uint8, and the scorer and matching for which they are unknown.

    kinds (B,): HELD_OUT, COPY, LENIENT or STRICT (fdsl/thresholds.py).
    """

    scorer: Scorer
    pixels: Tensor
    kinds: list[int]
    match: Matching | None = None

    def score(self) -> ScoreMaps:
        """Raises NotFinite."""
        return self.scorer(self.pixels, ["a reference"] * len(self.pixels), self.match)

    def scale_maps(self) -> np.ndarray:
        """One map (B,S,G,G) for each of the method's scales; raises NotFinite."""
        return self.scorer.scale_maps(self.pixels, ["a reference"] * len(self.pixels), self.match)


def elsewhere(detector: Detector, photograph: Image.Image, rotations: int) -> Elsewhere:
    """No patch of a copy of the one reference may match near its own place on it."""
    size, layout = photograph.size, detector.layout
    places = torch.from_numpy(rotated_places(size, rotations, detector.grid)).float()
    if layout is None:
        return Elsewhere(places)
    if detector.second is not None:
        return Elsewhere(places, elsewhere(detector.second.detector, photograph, rotations))
    if not isinstance(layout, TileLayout):
        raise ValueError("The detector has no layout of tiles.")
    tiles = torch.from_numpy(rotated_tile_places(size, rotations, layout)).float()
    return Elsewhere(places, Elsewhere(tiles))


def as_unknown(
    scorer: Scorer, photographs: Sequence[Image.Image], rotations: int = 1
) -> Iterator[UnknownBatch]:
    """The references and slightly varied copies, each for a detector that has not seen it.

    The scorer's detector remembers `photographs`, each with its `rotations`. With two or more each is held
    out in turn. A single one stands against itself twice: as it is, which is too lenient, and with every
    patch barred from matching near its own place, which is too strict.
    """
    known = scorer.detector.memory is not None
    if len(photographs) == 1 and known:
        barred = elsewhere(scorer.detector, photographs[0], rotations)
        for part in scorer.to_batch(varied(photographs[0], SINGLE_COPIES, 0)).split(BATCH):
            yield UnknownBatch(scorer, part, [LENIENT] * len(part))
            yield UnknownBatch(scorer, part, [STRICT] * len(part), barred)
        return
    for index, photo in enumerate(photographs):
        other = scorer.without(index, len(photographs)) if known else scorer
        kinds = [HELD_OUT] + [COPY] * COPIES
        for part in scorer.to_batch([photo, *varied(photo, COPIES, index)]).split(BATCH):
            yield UnknownBatch(other, part, kinds[: len(part)])
            kinds = kinds[len(part) :]


def set_scales(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int = 1) -> None:
    """Brings the method's maps to one scale, by the mean height that held-out references reach on each; then
    its maps and scores to that of mutual scoring, where this is added.

    Nothing is done for a method without scales. Raises NotFinite, and ModelError where a height is zero.
    """
    if scorer.detector.second is not None:
        set_levels_of_both(scorer, scorer.detector.second, photographs, rotations)
        return
    method, beside = scorer.detector.method, scorer.detector.beside
    if method.scales:
        peaks = [batch.scale_maps().max((2, 3)) for batch in as_unknown(scorer, photographs, rotations)]
        heights = np.ascontiguousarray(np.concatenate(peaks).T)  # (S, photographs)
        method.set_levels([float(height.mean()) for height in heights])
    if beside is not None:
        beside.set_own(*levels_of(scorer, photographs, rotations))


def set_levels_of_both(
    scorer: Scorer, second: Second, photographs: Sequence[Image.Image], rotations: int
) -> None:
    """Brings the maps and scores of two detectors to one scale, each by what its held-out references reach;
    before that each one's own maps, where its method has scales."""
    found = []
    for detector in (scorer.detector.alone(), second.detector):
        one = Scorer(detector)
        set_scales(one, photographs, rotations)
        found.append(levels_of(one, photographs, rotations))
    second.set_levels(*found)


def levels_of(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int) -> Levels:
    """The mean height of the maps and of the scores of held-out references; NotFinite."""
    found = [batch.score() for batch in as_unknown(scorer, photographs, rotations)]
    peak = np.concatenate([part.base.max((1, 2)) for part in found]).mean()
    return Levels(float(peak), float(np.concatenate([part.base_score for part in found]).mean()))


def normal_scores(
    scorer: Scorer, photographs: Sequence[Image.Image], rotations: int, image_score: str
) -> NormalScores:
    """What good parts score that the detector does not know, from the references it remembers; NotFinite."""
    batches = list(as_unknown(scorer, photographs, rotations))
    windows = scorer.detector.settings
    fused = [fused_scores(batch.score(), windows, image_score) for batch in batches]
    maps = np.concatenate([part for part, _ in fused])
    scores = np.concatenate([part for _, part in fused]).astype(np.float64)
    kinds = np.concatenate([batch.kinds for batch in batches])
    return NormalScores(scores, maps.max((1, 2)).astype(np.float64), kinds, float(np.median(maps)))
