"""Thresholds from scores of normal images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from fdsl.config.run_config import Threshold
from fdsl.metrics.exact import image_metrics
from utils.errors import ConfigError
from utils.numbers import log_odds, percentile_of

# The kinds of scores, as saved detectors hold them: of a reference by the others; of a single reference by
# itself, unchanged and without matches near a patch's own place; of varied copies of a reference by the
# others; of a reference by the memory bank without its unrotated copy; of images that are no references.
LEAVE_ONE_OUT, SELF_MATCH, MASKED, AUGMENTED, LEAVE_COPY_OUT, CALIBRATION = range(6)
ENOUGH = 4  # references: from here on each one is left out with its rotated copies
FEWEST = 3  # references: from here on one may be an outlier
# Measured on other products at a target of 1 % (docs/measurements.md): false positives of 100 normal images,
# at most in 95 % of the samples of references; recall, in per cent of that at exactly the target rate.
OF_ONE, OF_TWO, OF_FOUR, OF_UNROTATED = (27, 53), (10, 80), (15, 80), (40, 53)
LOW_RECALL = 60
OUTLIER_GAP, OUTLIER_SPREADS = 0.45, 3.0  # of an outlier above the others: log-odds, and times their spread
FEWEST_OF_BATCH = 8  # test images for a threshold from their bulk
AUGMENTED_WEIGHT = 3  # degrees of freedom of the spread of varied copies of two or more references
PRIOR_WEIGHT = 12  # and of the spread over other products


@dataclass(frozen=True)
class Prior:
    """The difference of new normal images to left-out references, measured on other products: offset and
    spread (standard deviation) in log-odds, of image scores and of highest map values
    (fdsl/thresholds/threshold_prior.py)."""

    offset: float
    spread: float
    map_offset: float
    map_spread: float


@dataclass(frozen=True)
class NormalScores:
    """Scores as those of new normal images.

    scores, peaks (n,): image score and highest map value. kinds (n,): one of these each; of AUGMENTED ones
    the same number for each reference in turn. map_median: of all their maps (utils/image_statistics.py).
    prior: of these kinds on other products, None where it was not measured.
    """

    scores: np.ndarray
    peaks: np.ndarray
    kinds: np.ndarray
    map_median: float
    prior: Prior | None = None

    def threshold(self, rate: float) -> Threshold:
        """The threshold that normal images reach at the target false-positive `rate`, 0 < rate < 1."""
        source = f"target false-positive rate {rate:g} ({self._origin}{self._shortfall(rate)})"
        score = self._limit(self.scores, self._prior, rate)
        return Threshold(score, self.pixel_threshold(rate), source, rate)

    def pixel_threshold(self, rate: float) -> float:
        """The map value that normal images reach at the target `rate`."""
        prior = None if self.prior is None else (self.prior.map_offset, self.prior.map_spread)
        return self._limit(self.peaks, prior, rate)

    def _limit(self, values: np.ndarray, prior: tuple[float, float] | None, rate: float) -> float:
        if self.is_calibrated:
            return conformal_limit(values, rate)
        return _upper(*normal_distribution(values, self.kinds, prior), rate)

    @property
    def _prior(self) -> tuple[float, float] | None:
        """Offset and spread of the image scores."""
        return None if self.prior is None else (self.prior.offset, self.prior.spread)

    @property
    def is_calibrated(self) -> bool:
        """Whether they are scores of calibration images."""
        return CALIBRATION in self.kinds

    @property
    def references(self) -> int:
        """The number of references that were scored."""
        counts = [int((self.kinds == kind).sum()) for kind in (LEAVE_ONE_OUT, LEAVE_COPY_OUT)]
        return max(1, *counts)

    @property
    def _origin(self) -> str:
        count = len(self.kinds)
        if self.is_calibrated:
            return f"{count} calibration images"
        if self.prior is not None:
            return f"{_counted(self.references)}, each scored without itself, and a prior of other products"
        if LEAVE_ONE_OUT in self.kinds:
            return f"leave-one-out of {_counted(self.references)} and varied copies, {count} scores"
        return f"varied copies of one reference, {count} scores"

    def _shortfall(self, rate: float) -> str:
        """A remark where there are too few calibration images for the rate; else ""."""
        count = len(self.scores)
        if not self.is_calibrated or rate >= 1 / (count + 1):
            return ""
        return (
            f", which guarantee {1 / (count + 1):.2g} at best; {math.ceil(1 / rate) - 1} guarantee {rate:g}"
        )

    @property
    def trust(self) -> str:
        """How reliable a threshold from these scores is, and the cure (docs/measurements.md)."""
        count = len(self.scores)
        if self.is_calibrated:
            return (
                f"From {count} calibration images: the target rate holds on average over such sets of images."
            )
        cure = "Add calibration images to make it reliable."
        if self.prior is not None:
            false_alarms, recall = self._measured
            advice = "Trust the ranking more than the decision. " if recall < LOW_RECALL else ""
            return (
                f"From {_counted(self.references)}: at a target of 1 %, on other products 0 to "
                f"{false_alarms} of 100 normal images were false alarms, and {recall} % of the defects were "
                f"found that a perfect threshold would find. {advice}{cure}"
            )
        if self.references < 2:
            return f"From 1 reference: it cannot show how normal images differ from each other. {cure}"
        return (
            f"From {_counted(self.references)}: expect several times the target rate for some sets of them. "
            f"{cure}"
        )

    @property
    def _measured(self) -> tuple[int, int]:
        """False alarms in 100 normal images, and recall in per cent, of as many references."""
        if self.references >= ENOUGH:
            return OF_FOUR
        if LEAVE_COPY_OUT not in self.kinds:
            return OF_UNROTATED
        return OF_ONE if self.references == 1 else OF_TWO

    @property
    def outlier(self) -> int | None:
        """The index of the reference whose score lies far above the others'; None for none."""
        return outlier(log_odds(self.scores), self.kinds)

    def percentile(self, score: float) -> float:
        """The percentile of an image score among normal images, by the distribution of the threshold."""
        return percentile_of(score, *self.distribution)

    @cached_property
    def distribution(self) -> tuple[float, float]:
        """Mean and standard deviation of normal images' scores, in log-odds."""
        mean, variance = normal_distribution(self.scores, self.kinds, self._prior)
        return mean, variance**0.5


def _counted(references: int) -> str:
    return f"{references} reference{'s' if references > 1 else ''}"


def conformal_limit(values: np.ndarray, rate: float) -> float:
    """The limit for a target rate from the values (n,) of n normal images: just above the
    ceil((n + 1)(1 - rate))-th lowest (split conformal prediction).

    A new image reaches it with a probability of at most `rate`, if it and the n are exchangeable. For n
    smaller than 1 / rate - 1 the limit lies above the highest value, which holds for a rate of 1 / (n + 1).
    """
    rank = min(len(values), math.ceil((len(values) + 1) * (1 - rate) - 1e-9))
    return float(np.nextafter(np.sort(values)[max(rank, 1) - 1], np.inf))


def normal_distribution(
    values: np.ndarray, kinds: np.ndarray, prior: tuple[float, float] | None
) -> tuple[float, float]:
    """Mean and variance of a new normal image's log-odds, from values (n,) in [0,1] of these kinds (n,).

    The log-odds are assumed to be normal. An outlier among the references is left out. `prior`: offset and
    spread over other products. With it, the mean is that of the left-out references plus the offset; the
    variance pools the prior's, with PRIOR_WEIGHT degrees of freedom, and the references' own. Without it,
    LEAVE_ONE_OUT values give the mean; their variance is shrunk towards that of AUGMENTED values around each
    reference's own mean and grows by 1 + 1/K for a new image. A single reference's SELF_MATCH and MASKED
    values bound the mean from below and above: it is uniform between them, which adds (distance)^2 / 12 to
    the variance within each.
    """
    odds = log_odds(values)
    if CALIBRATION in kinds:
        return float(odds.mean()), float(odds.var(ddof=1)) if len(odds) > 1 else 0.0
    if (number := outlier(odds, kinds)) is not None:
        others = _others(number, kinds)
        odds, kinds = odds[others], kinds[others]
    if prior is not None:
        own = odds[kinds == (LEAVE_COPY_OUT if LEAVE_COPY_OUT in kinds else LEAVE_ONE_OUT)]
        offset, spread = prior
        between = float(((own - own.mean()) ** 2).sum())
        variance = (PRIOR_WEIGHT * spread**2 + between) / (PRIOR_WEIGHT + len(own) - 1)
        return float(own.mean()) + offset, variance
    return (_of_several if LEAVE_ONE_OUT in kinds else _of_one)(odds, kinds)


def _upper(mean: float, variance: float, rate: float) -> float:
    """The value whose log-odds a normal distribution exceeds with probability `rate`."""
    limit = float(1 / (1 + np.exp(-(mean + NormalDist().inv_cdf(1 - rate) * variance**0.5))))
    return min(np.nextafter(1.0, 0.0).item(), limit)


def outlier(odds: np.ndarray, kinds: np.ndarray) -> int | None:
    """The index of the reference that is an outlier, perhaps a defective part; None for none.

    From FEWEST references on it is the one with the highest LEAVE_ONE_OUT log-odds, if these lie OUTLIER_GAP
    and OUTLIER_SPREADS times the others' spread above the others' median.
    """
    own = odds[kinds == LEAVE_ONE_OUT]
    if len(own) < FEWEST:
        return None
    highest = int(own.argmax())
    gap = own[highest] - np.median(np.delete(own, highest))
    others = _others(highest, kinds)
    _, variance = _of_several(odds[others], kinds[others])
    return highest if gap > max(OUTLIER_GAP, OUTLIER_SPREADS * variance**0.5) else None


def _others(number: int, kinds: np.ndarray) -> np.ndarray:
    """(n,) bool: the values of all other references and their copies."""
    count = int((kinds == LEAVE_ONE_OUT).sum())
    copies = int((kinds == AUGMENTED).sum()) // count
    reference = np.empty(len(kinds), int)
    for kind, of_each in ((LEAVE_ONE_OUT, 1), (AUGMENTED, copies), (LEAVE_COPY_OUT, 1)):
        if kind in kinds:
            reference[kinds == kind] = np.repeat(np.arange(count), of_each)
    return reference != number


def _of_several(odds: np.ndarray, kinds: np.ndarray) -> tuple[float, float]:
    """Mean and variance of a new normal image's log-odds, from LEAVE_ONE_OUT and AUGMENTED ones."""
    own = odds[kinds == LEAVE_ONE_OUT]
    copies = odds[kinds == AUGMENTED].reshape(len(own), -1)
    mean, between = float(own.mean()), float(((own - own.mean()) ** 2).sum())
    within, weight = 0.0, 0
    if copies.shape[1] > 1:
        within, weight = float(copies.var(axis=1, ddof=1).mean()), AUGMENTED_WEIGHT
    freedom = len(own) - 1 + weight
    return mean, (between + weight * within) / freedom * (1 + 1 / len(own)) if freedom else 0.0


def _of_one(odds: np.ndarray, kinds: np.ndarray) -> tuple[float, float]:
    """The same from the SELF_MATCH and MASKED log-odds of a single reference."""
    groups = [odds[kinds == kind] for kind in np.unique(kinds)]
    means = [group.mean() for group in groups]
    within = float(np.mean([group.var(ddof=1) if len(group) > 1 else 0.0 for group in groups]))
    return float(np.mean(means)), within + (max(means) - min(means)) ** 2 / 12


def batch_threshold(scores: np.ndarray, peaks: np.ndarray, rate: float) -> Threshold:
    """The threshold from the bulk of the test images: scores and highest map values (n,), most of them of
    normal images; 0 < rate < 1. ConfigError for fewer than FEWEST_OF_BATCH.

    The log-odds of normal images are assumed to be normal: the median is their mean, and the root mean square
    of the values below it their standard deviation.
    """
    if len(scores) < FEWEST_OF_BATCH:
        raise ConfigError(
            f"A threshold from the test images themselves needs {FEWEST_OF_BATCH} of them or more; there are "
            f"{len(scores)}."
        )
    source = (
        f"target false-positive rate {rate:g} (median and lower half of the scores of {len(scores)} test "
        "images; transductive, and valid where most of them are normal)"
    )
    return Threshold(_bulk_limit(scores, rate), _bulk_limit(peaks, rate), source)


def _bulk_limit(values: np.ndarray, rate: float) -> float:
    odds = log_odds(values)
    below = odds[odds <= np.median(odds)] - np.median(odds)
    return _upper(float(np.median(odds)), float(np.square(below).mean()), rate)


def require_both_kinds(labels: Sequence[bool] | np.ndarray) -> None:
    """ConfigError unless there are both normal and anomalous labels."""
    if all(labels) or not any(labels):
        raise ConfigError("--labels needs both normal and anomalous labelled photographs.")


def labelled_threshold(scores: np.ndarray, labels: np.ndarray) -> Threshold:
    """The threshold with the best F1 on labelled photographs: scores (n,), labels (n,) bool.

    It lies half-way between the lowest score that is called anomalous and the next one below. ConfigError
    unless there are both normal and anomalous ones.
    """
    require_both_kinds(labels)
    best: dict[str, Any] = image_metrics(scores, labels)
    below = scores[scores < best["f1_threshold_sp"]]
    score = float(best["f1_threshold_sp"] + below.max()) / 2 if len(below) else float(best["f1_threshold_sp"])
    return Threshold(score, None, f"labels: F1 {best['f1_sp']:.3f} on {len(labels)} labelled photographs")
