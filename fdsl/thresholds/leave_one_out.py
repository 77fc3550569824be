"""Leave-one-out scores of the references: thresholds and the scales of methods are set by them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

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
from models.ensemble.mutual_scoring import WithMutualScoring
from models.features import ScoreMaps, join_score_maps
from models.matching.candidates import Matching
from utils.config import WindowConfig
from utils.console import progress
from utils.image_statistics import map_median
from utils.numbers import log_odds
from utils.views import Views

BATCH = 4
COPIES, SINGLE_COPIES = 4, 8  # varied copies of each reference; of a single one
OF_A_PHOTOGRAPH = 0.5  # of the time of one photograph, for copies that are scored without windows


@dataclass(frozen=True)
class HeldOutBatch:
    """Normal images, and a scorer and matching that leave them out.

    kinds (B,): LEAVE_ONE_OUT, AUGMENTED, SELF_MATCH or MASKED (fdsl/thresholds/threshold.py).
    """

    scorer: Scorer
    views: Views
    kinds: list[int]
    match: Matching | None = None

    def score(self) -> ScoreMaps:
        """The score maps; raises NotFinite."""
        return self.scorer(self.views, ["a reference"] * len(self.views), self.match)

    def scale_maps(self) -> np.ndarray:
        """A map (B,S,G,G) for each of the method's scales; raises NotFinite."""
        return self.scorer.scale_maps(self.views, ["a reference"] * len(self.views), self.match)


def held_out_batches(
    scorer: Scorer, photographs: Sequence[Image.Image], rotations: int, copies: int = SINGLE_COPIES
) -> Iterator[HeldOutBatch]:
    """The references and slightly varied copies, each left out of the detector that scores it.

    The scorer's detector is fitted to `photographs`, each with its `rotations`. Of two or more each one is
    left out in turn. A single one is scored by itself in `copies`, twice: unchanged, which is too lenient,
    and without matches near a patch's own place, which is too strict.
    """
    has_memory = scorer.detector.memories.whole is not None
    if len(photographs) == 1 and has_memory:
        masked = neighbourhood_masked(scorer.detector, photographs[0], rotations)
        for views in scorer.to_batch(varied(photographs[0], copies)).split(BATCH):
            yield HeldOutBatch(scorer, views, [SELF_MATCH] * len(views))
            yield HeldOutBatch(scorer, views, [MASKED] * len(views), masked)
        return
    for index, photo in enumerate(photographs):
        other = scorer.without(index, len(photographs)) if has_memory else scorer
        kinds = [LEAVE_ONE_OUT] + [AUGMENTED] * COPIES
        for views in scorer.to_batch([photo, *varied(photo, COPIES)]).split(BATCH):
            yield HeldOutBatch(other, views, kinds[: len(views)])
            kinds = kinds[len(views) :]


def set_scales(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int = 1) -> None:
    """Brings the method's maps to one scale, by the mean peak of held-out references on each; then its maps
    and scores to the scale of mutual scoring, if that is added.

    Does nothing for a method without scales. Raises NotFinite, and ModelError where one is zero.
    """
    method = scorer.detector.method
    if method.scales:
        peaks = [batch.scale_maps().max((2, 3)) for batch in held_out_batches(scorer, photographs, rotations)]
        by_scale = np.ascontiguousarray(np.concatenate(peaks).T)  # (S, photographs)
        method.set_scales([float(one.mean()) for one in by_scale])
    if isinstance(method, WithMutualScoring):
        maps = join_score_maps([one.score() for one in held_out_batches(scorer, photographs, rotations)])
        method.set_own_scales(float(maps.base.max((1, 2)).mean()), float(maps.base_score.mean()))


def normal_scores(
    scorer: Scorer, photographs: Sequence[Image.Image], rotations: int, image_score: str
) -> NormalScores:
    """Scores as those of new normal images, from the references in the detector's memory; NotFinite."""
    settings = scorer.detector.settings
    prior = prior_of(scorer.detector, image_score, len(photographs), rotations)
    if prior is not None:
        batches = _leave_one_out(scorer, photographs, rotations)
        return replace(_scored(batches, settings, image_score), prior=prior)
    if len(photographs) == 1 and scorer.detector.windows is not None:
        return _scores_of_one(scorer, photographs[0], rotations, image_score)
    count = 2 * SINGLE_COPIES if len(photographs) == 1 else len(photographs) * (1 + COPIES)
    batches = _with_progress(held_out_batches(scorer, photographs, rotations), count)
    return _scored(batches, settings, image_score)


def calibration_scores(
    scorer: Scorer, photographs: Iterable[Image.Image], count: int, image_score: str
) -> NormalScores:
    """The scores of `count` normal images that are in no memory bank; NotFinite."""
    batches = (
        HeldOutBatch(scorer, scorer.to_batch(part), [CALIBRATION] * len(part))
        for part in in_batches(photographs, BATCH)
    )
    counted = progress(batches, count, "calibration images", lambda one: len(one.kinds))
    return _scored(counted, scorer.detector.settings, image_score)


def _leave_one_out(
    scorer: Scorer, photographs: Sequence[Image.Image], rotations: int
) -> Iterator[HeldOutBatch]:
    """Each reference, without itself in the memory bank if they are not rotated or one may be an outlier
    (FEWEST), and without its unrotated copy if they are rotated and fewer than ENOUGH."""
    count = len(photographs)
    if rotations == 1 or count >= FEWEST:
        for index, photo in enumerate(photographs):
            yield HeldOutBatch(scorer.without(index, count), scorer.to_batch([photo]), [LEAVE_ONE_OUT])
    if rotations > 1 and count < ENOUGH:
        for index, photo in enumerate(photographs):
            other = scorer.without(index * rotations, count * rotations)
            yield HeldOutBatch(other, scorer.to_batch([photo]), [LEAVE_COPY_OUT])


def _with_progress(batches: Iterable[HeldOutBatch], count: int) -> Iterator[HeldOutBatch]:
    return progress(batches, count, "the threshold, from the references", lambda one: len(one.kinds))


def _scored(batches: Iterable[HeldOutBatch], windows: WindowConfig, image_score: str) -> NormalScores:
    """The scores of the batches' photographs, without a prior."""
    kinds: list[int] = []
    maps, scores = [], []
    for batch in batches:
        fused, raw = fused_scores(batch.score(), windows, image_score)
        maps.append(fused)
        scores.append(raw)
        kinds += batch.kinds
    every, single = np.concatenate(maps), np.concatenate(scores).astype(np.float64)
    peaks = every.max((1, 2)).astype(np.float64)
    return NormalScores(single, peaks, np.array(kinds), map_median(every))


def _scores_of_one(scorer: Scorer, photograph: Image.Image, rotations: int, image_score: str) -> NormalScores:
    """The scores of a single reference with local windows, which take long: one copy is scored with windows,
    and the differences of other copies to it, in log-odds, are those of whole images."""
    detector, windows = scorer.detector, scorer.detector.settings
    first = held_out_batches(scorer, [photograph], rotations, 1)
    own = _scored(_with_progress(first, 2), windows, image_score)
    whole, longer = detector.of_whole_images(), detector.window_patches / detector.whole.tokens
    copies = min(SINGLE_COPIES, max(1, int(OF_A_PHOTOGRAPH * longer)))
    batches = held_out_batches(Scorer(whole, scorer), [photograph], rotations, copies)
    others = _scored(batches, whole.settings, image_score)

    def with_windows(one: np.ndarray, several: np.ndarray) -> np.ndarray:
        odds, shifted = log_odds(several), np.empty(len(several))
        for kind in (SELF_MATCH, MASKED):
            same = others.kinds == kind
            shifted[same] = odds[same] - odds[same][0] + log_odds(one[own.kinds == kind])[0]
        return 1 / (1 + np.exp(-shifted))

    scores = with_windows(own.scores, others.scores)
    return NormalScores(scores, with_windows(own.peaks, others.peaks), others.kinds, own.map_median)
