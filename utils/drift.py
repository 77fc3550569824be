"""Whether the photographs of a line, as a whole, still look like the references: each one may pass while all
of them have become darker. NumPy alone; predict.py and deploy/ share it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.image_statistics import DIFFERENT

WINDOW = 50  # photographs that are looked at as a whole
# How far the median of a window may lie outside what the references and the first window span, as a factor:
# of brightness, contrast and sharpness. Light that is a fifth weaker or stronger lies outside, and so does a
# slight blur.
FACTORS = (1.15, 1.5, 1.5)
WORDS = (("darker", "brighter"), ("of less contrast", "of more contrast"), ("less sharp", "sharper"))
RISEN = 0.8  # of the pairs of a photograph of the window and one of the first: so many score higher


class Seen(NamedTuple):
    """A photograph's brightness, contrast and sharpness (3,), and its normal_percentile, None where it has
    none."""

    name: str
    values: np.ndarray
    percentile: float | None


class Change(NamedTuple):
    """In which way the last photographs do not look like the references: a sentence, and the name of one that
    shows it."""

    sentence: str
    name: str

    def __str__(self) -> str:
        return f"{self.sentence}; see {self.name}"


class Drift:
    """Follows photographs in the order they come. `references`: their statistics (K,11), as
    utils/image_statistics.py gives them. `earlier`: the rows of the run that goes on."""

    def __init__(self, references: np.ndarray, earlier: Iterable[Mapping[str, Any]] = ()) -> None:
        self._first: list[Seen] = []
        self._last: deque[Seen] = deque(maxlen=WINDOW)
        self._usual = references[:, :3]  # and once there is one the median of the first window
        self.changes: dict[str, Change] = {}  # of the last window, by their kinds; none at first
        for row in earlier:
            self.follow(row)

    def follow(self, row: Mapping[str, Any]) -> list[str]:
        """Takes the next photograph by its row (utils/score_rows.py), which may be one of an earlier process;
        returns what there is to report now, as sentences. One whose statistics are far outside, or that has
        none, does not count."""
        if row["reason"] not in (None, "", DIFFERENT) or row["statistics"] is None:
            return []
        seen = Seen(row["image"], np.array(row["statistics"])[:3], row["normal_percentile"])
        if len(self._first) < WINDOW:
            self._first.append(seen)
            if len(self._first) == WINDOW:
                self._usual = np.vstack([self._usual, np.median([one.values for one in self._first], axis=0)])
            return []
        self._last.append(seen)
        if len(self._last) < WINDOW:
            return []
        changes = {**self._of_statistics(), **self._of_scores()}
        sentences = [str(change) for kind, change in changes.items() if kind not in self.changes]
        self.changes = changes
        return sentences

    def _of_statistics(self) -> dict[str, Change]:
        """Kind -> change of what the images' statistics show."""
        lowest, highest = self._usual.min(0), self._usual.max(0)
        median, changes = np.median([one.values for one in self._last], axis=0), {}
        for number, (factor, words) in enumerate(zip(FACTORS, WORDS)):
            low, high, value = lowest[number], highest[number], median[number]
            if low / factor <= value <= high * factor:
                continue
            order = sorted(self._last, key=lambda one: one.values[number], reverse=bool(value > high))
            kind = words[int(value > high)]
            values = f"{value:.4g}, before {low:.4g} to {high:.4g}"
            first = f"the references and the first {WINDOW} ({values})"
            changes[kind] = Change(f"the last {WINDOW} photographs are {kind} than {first}", order[0].name)
        return changes

    def _of_scores(self) -> dict[str, Change]:
        before, now = _percentiles(self._first), _percentiles(self._last)
        if not before or not now:
            return {}
        share = float((np.subtract.outer(now, before) > 0).mean())
        if share < RISEN:
            return {}
        highest = max(self._last, key=lambda one: -1.0 if one.percentile is None else one.percentile)
        sentence = (
            f"the last {WINDOW} photographs score higher than the first {WINDOW} (median normal_percentile "
            f"{np.median(now):.4g}, before {np.median(before):.4g}), so more will be called anomalous"
        )
        return {"higher scores": Change(sentence, highest.name)}


def _percentiles(photographs: Sequence[Seen]) -> list[float]:
    return [one.percentile for one in photographs if one.percentile is not None]
