"""From scores of good parts to a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from fdsl.metrics.exact import image_metrics
from utils.errors import ConfigError

LOWEST_RATE = 1e-9  # of false alarms: below it a normal distribution says nothing
TINY = 1e-6  # scores are kept this far from 0 and 1
# The kinds of scores, as saved detectors hold them.
HELD_OUT, LENIENT, STRICT, COPY, APART = 0, 1, 2, 3, 4
FEWEST = 3  # references, from which on one may be unlike the others
ODDS_APART, SPREADS_APART = 0.45, 3.0  # log-odds, and times their spread, that it lies above them
FEWEST_OF_BATCH = 8  # photographs whose bulk says something
COPY_WEIGHT = 3  # degrees of freedom that the copies of two or more references stand for
LIKE_OTHERS = 3.0  # spreads that references may lie from the step that was learnt
LEARNT_WEIGHT = 12  # and those that the spread learnt on other products stands for


@dataclass(frozen=True)
class Threshold:
    """From `score` on a photograph is anomalous, from `level` on a patch is (None: not known); `source` says
    why."""

    score: float
    level: float | None
    source: str

    @classmethod
    def from_json(cls, values: Any) -> Threshold:
        """From stored values; ConfigError for what no detector has."""
        if not isinstance(values, dict) or set(values) != {"score", "level", "source"}:
            raise ConfigError("its threshold does not say score, level and source")
        found = cls(values["score"], values["level"], values["source"])
        numbers = [found.score] if found.level is None else [found.score, found.level]
        if not all(_is_finite(number) for number in numbers) or not isinstance(found.source, str):
            raise ConfigError("its threshold is no number")
        return found


@dataclass(frozen=True)
class Above:
    """How far new good parts lie above what references say of themselves, in log-odds: the mean and the
    standard deviation over other products, references and good parts (fdsl/good_parts.py). alone: the weight
    of what each reference says alone; its scores against the others, of a single one those of its copies
    against it, have the rest. step: what `step_of` says."""

    shift: float
    spread: float
    alone: float
    step: float


@dataclass(frozen=True)
class NormalScores:
    """What photographs of good parts score when the detector does not know them.

    scores, peaks (n,): image score and highest map value. kinds (n,): HELD_OUT, a reference against the
    others, and COPY, its varied copies, the same number for each reference in turn; of a single reference
    LENIENT, against itself, and STRICT, against itself elsewhere. Of each reference in turn, where other
    products taught something, APART, the mean of its map against itself elsewhere. floor: the median of all
    their map values. above: what other products taught of the scores; the peaks go by the references
    alone.
    """

    scores: np.ndarray
    peaks: np.ndarray
    kinds: np.ndarray
    floor: float
    above: Above | None = None

    def threshold(self, rate: float) -> Threshold:
        """The threshold that normal photographs reach at the wished `rate`, 0 < rate < 1."""
        source = f"false-alarm rate {rate:g} ({self._origin})"
        return Threshold(upper_limit(self.scores, self.kinds, rate, self.above), self.level(rate), source)

    @property
    def _origin(self) -> str:
        count = len(self.kinds)
        if self.above is not None:
            return (
                f"{count} scores of the references among themselves, and what other products' good parts do"
            )
        if HELD_OUT in self.kinds:
            return f"leave-one-out of the references and their copies, {count} scores"
        return (
            f"copies and tiles of the one reference, {count} scores; rough, two references make it far better"
        )

    def gave(self, threshold: Threshold) -> bool:
        """Whether a threshold is of these scores, and neither given nor learnt elsewhere."""
        return threshold.source.endswith(f"({self._origin})")

    @property
    def sureness(self) -> str:
        """How far a threshold of these is to be trusted, as measured (docs/measurements.md)."""
        own = int((self.kinds == HELD_OUT).sum())
        if self.above is not None and own == 0:
            return (
                "not sure: with one reference false alarms came out at up to six times the wish on "
                "average, for single references at up to eleven times; give two or more, or "
                "--threshold-from batch"
            )
        if own == 0:
            return (
                "not sure: one reference cannot say how good parts differ; give two or more, or "
                "--threshold-from batch"
            )
        if own < 4:
            return "fairly sure: single draws of references come out several times as high"
        return "rather sure: on average within a few times the wish, single draws above it"

    @property
    def unlike(self) -> int | None:
        """The number of the reference whose score is unlike the others'; None where there is none."""
        return unlike(log_odds(self.scores), self.kinds) if HELD_OUT in self.kinds else None

    def percentile(self, score: float) -> float:
        """How unusual an image score is among good parts: so many of a hundred would score less, by the
        distribution that the threshold rests on."""
        mean, deviation = self.bulk
        apart = float(log_odds(np.array([score]))[0]) - mean
        if deviation == 0:
            return 50.0 if apart == 0 else 100.0 * (apart > 0)
        return 100 * NormalDist().cdf(apart / deviation)

    @property
    def bulk(self) -> tuple[float, float]:
        """Mean and standard deviation of good parts' scores, in log-odds."""
        mean, variance = normal_parts(self.scores, self.kinds, self.above)
        return mean, variance**0.5

    def level(self, rate: float) -> float:
        """The map value that normal photographs reach at the wished `rate`."""
        return upper_limit(self.peaks, self.kinds, rate)


def is_normal(scores: np.ndarray, peaks: np.ndarray, kinds: np.ndarray) -> bool:
    """Whether arrays from a file can be those of NormalScores."""
    if not scores.ndim == 1 <= len(scores) or not scores.shape == peaks.shape == kinds.shape:
        return False
    if scores.dtype.kind != "f" or peaks.dtype.kind != "f" or kinds.dtype.kind not in "iu":
        return False
    if not np.isin(kinds, (HELD_OUT, LENIENT, STRICT, COPY, APART)).all():
        return False
    own, copies, apart = (int((kinds == kind).sum()) for kind in (HELD_OUT, COPY, APART))
    if apart not in (0, max(1, own)):
        return False
    others = len(kinds) - apart
    return copies % own == 0 and own + copies == others if own else copies < others


def _is_finite(value: Any) -> bool:
    """Whether a stored value is a number that a float holds."""
    return type(value) in (int, float) and abs(value) < 1e300


def upper_limit(values: np.ndarray, kinds: np.ndarray, rate: float, above: Above | None = None) -> float:
    """The value in (0,1) that normal photographs exceed at the rate wished, from held-out values (n,) in
    [0,1] of these kinds (n,).

    The log-odds are taken as normal. A reference that is `unlike` the others is left out with its copies.
    HELD_OUT references give the mean; their variance is shrunk towards that of COPY values about each
    reference's own mean, which counts as COPY_WEIGHT degrees of freedom, and grows
    by 1 + 1/K for a new photograph. A single reference's LENIENT and STRICT values bound the mean from below
    and above: it lies anywhere between them alike, which adds (distance)^2 / 12 to the variance within each.
    With `above` (what other products taught) the mean and the variance are those of `_as_learnt`, where the
    references are like theirs.
    """
    mean, variance = normal_parts(values, kinds, above)
    return _upper(mean, variance, rate)


def normal_parts(values: np.ndarray, kinds: np.ndarray, above: Above | None = None) -> tuple[float, float]:
    """Mean and variance of what a new good part's log-odds are; the arguments are those of `upper_limit`."""
    odds = log_odds(values)
    if (kept := _like_the_others(odds, kinds)) is not None:
        odds, kinds = odds[kept], kinds[kept]
    if above is not None and is_like_others(odds, kinds, above):
        return _as_learnt(odds, kinds, above)
    odds, kinds = odds[kinds != APART], kinds[kinds != APART]
    return (_of_several if HELD_OUT in kinds else _of_one)(odds, kinds)


def _upper(mean: float, variance: float, rate: float) -> float:
    """The value whose log-odds a normal distribution exceeds at the rate."""
    limit = float(1 / (1 + np.exp(-(mean + NormalDist().inv_cdf(1 - rate) * variance**0.5))))
    return min(np.nextafter(1.0, 0.0).item(), limit)


def log_odds(values: np.ndarray) -> np.ndarray:
    """Values (n,) in [0,1] -> their log-odds, kept TINY away from both ends."""
    clean = np.clip(np.asarray(values, np.float64), TINY, 1 - TINY)
    return np.log(clean / (1 - clean))


def unlike(odds: np.ndarray, kinds: np.ndarray) -> int | None:
    """The number of the reference that is unlike the others, perhaps a broken part; None where there is none.

    From FEWEST references on, the one with the highest HELD_OUT log-odds: it must lie ODDS_APART above the
    median of the others, and SPREADS_APART times as far as they spread, copies counted (`_of_several`). The
    figures are chosen so that good references are rarely named (docs/measurements.md).
    """
    own = odds[kinds == HELD_OUT]
    if len(own) < FEWEST:
        return None
    highest = int(own.argmax())
    apart = own[highest] - np.median(np.delete(own, highest))
    kept = _but(highest, kinds)
    _, variance = _of_several(odds[kept], kinds[kept])
    return highest if apart > max(ODDS_APART, SPREADS_APART * variance**0.5) else None


def _like_the_others(odds: np.ndarray, kinds: np.ndarray) -> np.ndarray | None:
    """Which values are not of a reference that is `unlike` the others; None where all are."""
    number = unlike(odds, kinds) if HELD_OUT in kinds else None
    return None if number is None else _but(number, kinds)


def _but(number: int, kinds: np.ndarray) -> np.ndarray:
    """Which values (n,) are not of that reference nor of its copies."""
    count = int((kinds == HELD_OUT).sum())
    copies = int((kinds == COPY).sum()) // count
    whose = np.empty(len(kinds), int)
    for kind, of_each in ((HELD_OUT, 1), (COPY, copies), (APART, 1)):
        if kind in kinds:
            whose[kinds == kind] = np.repeat(np.arange(count), of_each)
    return whose != number


def step_of(odds: np.ndarray, kinds: np.ndarray, alone: float) -> float:
    """How far above what each says alone the references come for each other, a single one for itself
    elsewhere; where what it says alone has no weight, how far above what its copies score against it."""
    among = odds[kinds == (HELD_OUT if HELD_OUT in kinds else STRICT)]
    below = odds[kinds == (APART if alone > 0 or LENIENT not in kinds else LENIENT)]
    return float(among.mean() - below.mean())


def is_like_others(odds: np.ndarray, kinds: np.ndarray, above: Above) -> bool:
    """Whether references are as those that something was learnt from: with another backbone, or photographs
    that nobody thought of, they may not be."""
    return (
        APART in kinds and abs(step_of(odds, kinds, above.alone) - above.step) <= LIKE_OTHERS * above.spread
    )


def what_references_say(odds: np.ndarray, kinds: np.ndarray, alone: float) -> float:
    """Where good parts' log-odds lie, but for a shift that other products teach, from those (n,) of these
    kinds: what each reference says alone (APART) has that weight, their HELD_OUT scores the rest, of a single
    one its LENIENT scores."""
    apart, beside = odds[kinds == APART], odds[kinds == (HELD_OUT if HELD_OUT in kinds else LENIENT)]
    return float(alone * apart.mean() + ((1 - alone) * beside.mean() if len(beside) else 0.0))


def _as_learnt(odds: np.ndarray, kinds: np.ndarray, above: Above) -> tuple[float, float]:
    """Mean and variance of a new good part's log-odds: what the references say, and how far above it other
    products' good parts lie. What was learnt counts as LEARNT_WEIGHT degrees of freedom beside the HELD_OUT
    references' own variance."""
    own = odds[kinds == HELD_OUT]
    between = float(((own - own.mean()) ** 2).sum()) if len(own) else 0.0
    freedom = LEARNT_WEIGHT + max(0, len(own) - 1)
    variance = (LEARNT_WEIGHT * above.spread**2 + between) / freedom
    return what_references_say(odds, kinds, above.alone) + above.shift, variance


def _of_several(odds: np.ndarray, kinds: np.ndarray) -> tuple[float, float]:
    """Mean and variance of what a new good part's log-odds are, from HELD_OUT ones and their COPY ones."""
    own, copies = odds[kinds == HELD_OUT], odds[kinds == COPY].reshape(int((kinds == HELD_OUT).sum()), -1)
    mean, between = float(own.mean()), float(((own - own.mean()) ** 2).sum())
    within, weight = 0.0, 0
    if copies.shape[1] > 1:
        within, weight = float(copies.var(axis=1, ddof=1).mean()), COPY_WEIGHT
    freedom = len(own) - 1 + weight
    return mean, (between + weight * within) / freedom * (1 + 1 / len(own)) if freedom else 0.0


def _of_one(odds: np.ndarray, kinds: np.ndarray) -> tuple[float, float]:
    """The same from the LENIENT and STRICT log-odds of a single reference."""
    groups = [odds[kinds == kind] for kind in np.unique(kinds)]
    means = [group.mean() for group in groups]
    within = float(np.mean([group.var(ddof=1) if len(group) > 1 else 0.0 for group in groups]))
    return float(np.mean(means)), within + (max(means) - min(means)) ** 2 / 12


def batch_threshold(scores: np.ndarray, peaks: np.ndarray, rate: float) -> Threshold:
    """The threshold from the inspected photographs' own bulk: scores and highest map values (n,), of which
    most are of good parts; 0 < rate < 1. ConfigError for fewer than FEWEST_OF_BATCH.

    The log-odds of good ones are taken as normal: the median is their mean, and the root mean square of what
    lies below it their deviation.
    """
    if len(scores) < FEWEST_OF_BATCH:
        raise ConfigError(
            f"--threshold-from batch needs {FEWEST_OF_BATCH} photographs or more; there are {len(scores)}."
        )
    source = (
        f"false-alarm rate {rate:g} (median and lower half of the {len(scores)} inspected photographs' own "
        "scores; it looks at what it judges, and holds where most of them are good)"
    )
    return Threshold(_bulk_limit(scores, rate), _bulk_limit(peaks, rate), source)


def _bulk_limit(values: np.ndarray, rate: float) -> float:
    odds = log_odds(values)
    below = odds[odds <= np.median(odds)] - np.median(odds)
    return _upper(float(np.median(odds)), float(np.square(below).mean()), rate)


def require_both_kinds(labels: Sequence[bool] | np.ndarray) -> None:
    """ConfigError unless there are both good and anomalous labels."""
    if all(labels) or not any(labels):
        raise ConfigError(
            "--threshold-from labels needs both good and anomalous photographs among the labelled ones."
        )


def labelled_threshold(scores: np.ndarray, labels: np.ndarray) -> Threshold:
    """The threshold with the best F1 on labelled photographs: scores (n,), labels (n,) bool.

    Half-way between the lowest score that is called anomalous and the next one below. ConfigError unless
    there are both good and anomalous ones.
    """
    require_both_kinds(labels)
    best: dict[str, Any] = image_metrics(scores, labels)
    below = scores[scores < best["f1_threshold_sp"]]
    score = float(best["f1_threshold_sp"] + below.max()) / 2 if len(below) else float(best["f1_threshold_sp"])
    return Threshold(score, None, f"labels: F1 {best['f1_sp']:.3f} on {len(labels)} labelled photographs")
