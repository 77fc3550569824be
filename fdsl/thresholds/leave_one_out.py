"""References as photographs that their detector does not know: thresholds and the scales of methods rest on
them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor

from data.photographs import in_batches
from data.variants import varied
from fdsl.references.rotation import neighbourhood_masked
from fdsl.scoring import Scorer, fused_scores
from fdsl.thresholds.threshold import (
    AUGMENTED,
    CALIBRATION,
    ENOUGH,
    FEWEST,
    LEAVE_COPY_OUT,
    LEAVE_ONE_OUT,
    MASKED,
    SELF_MATCH,
    NormalScores,
)
from fdsl.thresholds.threshold_prior import prior_of
from models.detector import Detector
from models.ensemble.mutual_scoring import WithMutualScoring
from models.features import ScoreMaps
from models.matching.candidates import Matching
from utils.config import WindowConfig
from utils.log import progress
from utils.log_odds import log_odds

BATCH = 4
COPIES, SINGLE_COPIES = 4, 8  # varied copies of each reference; of one that stands alone
OF_A_PHOTOGRAPH = 0.5  # of the time that one takes, for copies that are looked at without windows


@dataclass(frozen=True)
class UnknownBatch:
    """Normal images (B,3,S,S) uint8, and the scorer and matching for which they are unknown.

    kinds (B,): LEAVE_ONE_OUT, AUGMENTED, SELF_MATCH or MASKED (fdsl/thresholds/threshold.py).
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


def as_unknown(
    scorer: Scorer, photographs: Sequence[Image.Image], rotations: int = 1, copies: int = SINGLE_COPIES
) -> Iterator[UnknownBatch]:
    """The references and slightly varied copies, each for a detector that has not seen it.

    The scorer's detector is fitted to `photographs`, each with its `rotations`. With two or more each is held
    out in turn. A single one stands against itself twice, in so many `copies`: as it is, which is too
    lenient, and with every patch barred from matching near its own place, which is too strict.
    """
    known = scorer.detector.memories.whole is not None
    if len(photographs) == 1 and known:
        barred = neighbourhood_masked(scorer.detector, photographs[0], rotations)
        for part in scorer.to_batch(varied(photographs[0], copies, 0)).split(BATCH):
            yield UnknownBatch(scorer, part, [SELF_MATCH] * len(part))
            yield UnknownBatch(scorer, part, [MASKED] * len(part), barred)
        return
    for index, photo in enumerate(photographs):
        other = scorer.without(index, len(photographs)) if known else scorer
        kinds = [LEAVE_ONE_OUT] + [AUGMENTED] * COPIES
        for part in scorer.to_batch([photo, *varied(photo, COPIES, index)]).split(BATCH):
            yield UnknownBatch(other, part, kinds[: len(part)])
            kinds = kinds[len(part) :]


def set_scales(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int = 1) -> None:
    """Brings the method's maps to one scale, by the mean peak that held-out references reach on each; then
    its maps and scores to that of mutual scoring, where this is added.

    Nothing is done for a method without scales. Raises NotFinite, and ModelError where one is zero.
    """
    method = scorer.detector.method
    if method.scales:
        peaks = [batch.scale_maps().max((2, 3)) for batch in as_unknown(scorer, photographs, rotations)]
        by_scale = np.ascontiguousarray(np.concatenate(peaks).T)  # (S, photographs)
        method.set_levels([float(one.mean()) for one in by_scale])
    if isinstance(method, WithMutualScoring):
        method.set_own_scales(*levels_of(scorer, photographs, rotations))


def levels_of(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int) -> tuple[float, float]:
    """The mean peak of the maps and the mean score of held-out references; NotFinite."""
    found = [batch.score() for batch in as_unknown(scorer, photographs, rotations)]
    peak = np.concatenate([part.base.max((1, 2)) for part in found]).mean()
    return float(peak), float(np.concatenate([part.base_score for part in found]).mean())


def normal_scores(
    scorer: Scorer, photographs: Sequence[Image.Image], rotations: int, image_score: str
) -> NormalScores:
    """What normal images score that the detector does not know, from the references in its memory;
    NotFinite."""
    settings = scorer.detector.settings
    prior = prior_of(scorer.detector, image_score, len(photographs), rotations)
    if prior is not None:
        return replace(_scored(_left_out(scorer, photographs, rotations), settings, image_score), prior=prior)
    if len(photographs) == 1 and looks_slowly(scorer.detector):
        return _scores_of_few(scorer, photographs[0], rotations, image_score)
    looks = 2 * SINGLE_COPIES if len(photographs) == 1 else len(photographs) * (1 + COPIES)
    batches = _with_progress(as_unknown(scorer, photographs, rotations), looks)
    return _scored(batches, settings, image_score)


def calibration_scores(
    scorer: Scorer, photographs: Iterable[Image.Image], count: int, image_score: str
) -> NormalScores:
    """What `count` normal images score that are in no memory bank; NotFinite."""
    batches = (
        UnknownBatch(scorer, scorer.to_batch(part), [CALIBRATION] * len(part))
        for part in in_batches(photographs, BATCH)
    )
    looked = progress(batches, count, "calibration images", lambda one: len(one.kinds))
    return _scored(looked, scorer.detector.settings, image_score)


def _left_out(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int) -> Iterator[UnknownBatch]:
    """Each reference, for a detector without its unrotated copy; where they are not rotated, or enough that
    one may be an outlier, for one without the whole reference. From ENOUGH on that alone."""
    count = len(photographs)
    if rotations == 1 or count >= FEWEST:
        for index, photo in enumerate(photographs):
            yield UnknownBatch(scorer.without(index, count), scorer.to_batch([photo]), [LEAVE_ONE_OUT])
    if rotations > 1 and count < ENOUGH:
        for index, photo in enumerate(photographs):
            other = scorer.without(index * rotations, count * rotations)
            yield UnknownBatch(other, scorer.to_batch([photo]), [LEAVE_COPY_OUT])


def _with_progress(batches: Iterable[UnknownBatch], looks: int) -> Iterator[UnknownBatch]:
    return progress(batches, looks, "the threshold, from the references", lambda one: len(one.kinds))


def _scored(batches: Iterable[UnknownBatch], windows: WindowConfig, image_score: str) -> NormalScores:
    """What the photographs of the batches score, without a prior."""
    kinds: list[int] = []
    maps, scores = [], []
    for batch in batches:
        fused, raw = fused_scores(batch.score(), windows, image_score)
        maps.append(fused)
        scores.append(raw)
        kinds += batch.kinds
    every, single = np.concatenate(maps), np.concatenate(scores).astype(np.float64)
    peaks = every.max((1, 2)).astype(np.float64)
    return NormalScores(single, peaks, np.array(kinds), float(np.median(every)))


def _scores_of_few(scorer: Scorer, photograph: Image.Image, rotations: int, image_score: str) -> NormalScores:
    """What one reference says where looking through windows takes long: one copy of it is looked at through
    windows, and how other copies differ from that one is taken from whole images, in log-odds."""
    detector, windows = scorer.detector, scorer.detector.settings
    own = _scored(_with_progress(as_unknown(scorer, [photograph], rotations, 1), 2), windows, image_score)
    whole, longer = detector.of_whole_images(), detector.window_patches / detector.whole.tokens
    copies = min(SINGLE_COPIES, max(1, int(OF_A_PHOTOGRAPH * longer)))
    batches = as_unknown(Scorer(whole, scorer), [photograph], rotations, copies)
    others = _scored(batches, whole.settings, image_score)

    def as_through_windows(one: np.ndarray, several: np.ndarray) -> np.ndarray:
        odds, found = log_odds(several), np.empty(len(several))
        for kind in (SELF_MATCH, MASKED):
            same = others.kinds == kind
            found[same] = odds[same] - odds[same][0] + log_odds(one[own.kinds == kind])[0]
        return 1 / (1 + np.exp(-found))

    scores = as_through_windows(own.scores, others.scores)
    return NormalScores(scores, as_through_windows(own.peaks, others.peaks), others.kinds, own.floor)


def looks_slowly(detector: Detector) -> bool:
    """Whether a photograph takes it so long that those before the first one count: through windows. A GPU
    goes by the same, so that one reference gives one threshold."""
    return detector.windows is not None
