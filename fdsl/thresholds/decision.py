"""What a detector decides by: its threshold, and the scores of normal images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fdsl.config.run_config import LOWEST_RATE, Threshold
from fdsl.thresholds.threshold import NormalScores, require_both_kinds
from utils.config import AUTO
from utils.errors import ConfigError
from utils.numbers import TINY, is_finite
from utils.text import one_line

logger = logging.getLogger("fdsl")
USUAL_RATE = 0.01  # target false-positive rate
# Where heat maps begin, and where they are opaque if there is no pixel threshold: what these shares of the
# maps of normal images reach.
HEAT_FROM_RATE, OPAQUE_RATE = 0.5, 0.01


@dataclass(frozen=True)
class Decision:
    """What a detector decides by: its threshold, None where it decides nothing, and the scores of normal
    images, if there are some."""

    threshold: Threshold | None = None
    normal: NormalScores | None = None

    @classmethod
    def of_references(cls, normal: NormalScores, names: Sequence[str], rate: float) -> Decision:
        """That for a target rate by the left-out scores of the references of these names; warns of an
        outlier."""
        if normal.outlier is not None:
            logger.warning(
                "warning: %s scores far above the other references; it may show a defect. It is ignored for "
                "the threshold but stays in the memory bank, so that similar defects will be missed. Remove "
                "it if it is defective.",
                names[normal.outlier],
            )
        return cls(normal=normal).at(rate)

    @property
    def rate(self) -> float | None:
        """The target false-positive rate for which `normal` gave the threshold; None for any other
        threshold."""
        return None if self.threshold is None or self.normal is None else self.threshold.rate

    @property
    def trust(self) -> str:
        """How far the threshold is to be trusted; "" where it is not of `normal`."""
        return "" if self.normal is None or self.rate is None else self.normal.trust

    def percentile(self, score: float) -> float | None:
        """The percentile of an image score among normal images; None where none are known."""
        return None if self.normal is None else self.normal.percentile(score)

    def map_median(self, of_distances: bool) -> float | None:
        """The `map_median` of normal images, where maps are `of_distances`; None where it is not known."""
        return self.normal.map_median if of_distances and self.normal is not None else None

    def at(self, rate: float) -> Decision:
        """With the threshold that `normal` gives for a target false-positive rate; ConfigError for a rate
        outside 0 to 1, or where no scores are known."""
        require_rate(rate)
        if self.normal is None:
            raise ConfigError(
                "No scores of normal images are known, so no false-positive rate can be aimed at: give "
                "calibration images, fit the references with a rate, or set a threshold."
            )
        return replace(self, threshold=self.normal.threshold(rate))

    def rate_of_refit(self, asked: float | str | None) -> float | None:
        """The rate to fit changed references for, of which `asked` may be AUTO: that of the threshold, or the
        usual one where scores are known. ConfigError for another word."""
        if not isinstance(asked, str):
            return asked
        if asked != AUTO:
            raise ConfigError(f"false_alarm_rate is {one_line(asked, 40)}: give a number, None or {AUTO}.")
        return self.rate or (None if self.normal is None else USUAL_RATE)

    def refitted(self, other: Decision, asked: float | str | None) -> Decision:
        """What is decided by after the references were changed, from the decision of the `other` detector
        that was fitted to them: with AUTO `asked`, a threshold that is not of `normal` stays."""
        if asked == AUTO and self.rate is None:
            return replace(other, threshold=self.threshold)
        if self.normal is not None and self.normal.is_calibrated and other.normal is not None:
            logger.warning(
                "warning: the calibration was of the references before; the threshold now comes from the "
                "references alone: give the calibration images again."
            )
        return other

    def heat_scale(self, hottest: float) -> tuple[float, float]:
        """The map values from which on pictures show heat, and show it opaque: what the map of every other
        normal image reaches, and the pixel threshold. Where one is not known it is made up from the other, or
        from what the method's maps reach, `hottest`."""
        high = None if self.threshold is None else self.threshold.pixel_threshold
        if high is None:
            high = hottest / 2 if self.normal is None else self.normal.pixel_threshold(OPAQUE_RATE)
        low = high / 2 if self.normal is None else self.normal.pixel_threshold(HEAT_FROM_RATE)
        return min(low, high / 2) if low >= high else low, max(high, TINY)


def require_rate(rate: float) -> None:
    """ConfigError for what is no target false-positive rate."""
    if not is_finite(rate) or not LOWEST_RATE <= rate < 1:
        raise ConfigError(
            f"false_alarm_rate is {one_line(rate, 40)}, which is not a number between 0 and 1 (from "
            f"{LOWEST_RATE:g} on)."
        )


def checked_labels(labels: Sequence[bool]) -> np.ndarray:
    """The labels (n,) bool; ConfigError for what holds others than True and False, or not both."""
    if not isinstance(labels, Iterable):
        raise ConfigError(f"labels are a {type(labels).__name__}; give True or False for each photograph.")
    try:
        labels = list(labels)
        known = all(label in (True, False) for label in labels)
    except (TypeError, ValueError, RuntimeError):  # an array's or tensor's, which is no list of truths
        known = False
    if not known:
        raise ConfigError("labels hold what is neither True nor False; give True where it is anomalous.")
    require_both_kinds(labels)
    return np.asarray(labels, bool)
