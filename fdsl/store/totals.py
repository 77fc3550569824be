"""The totals of a prediction run, counted from its rows."""

from __future__ import annotations

import heapq
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from utils.score_rows import LISTED_SKIPPED, filled_columns

RANKED = 500  # highest rows, for the report,
SAMPLE = 100  # and where there are more, a sample of all of them


@dataclass
class Totals:
    """The totals of a finished run: counts, every score (n,) float64, the rows with the highest scores, and a
    sample of all rows where there are more. `reasoned`: the scores of photographs that cannot be judged
    normal, whatever they score. `filled`: the columns of scores.csv. `keeps_earlier`: nothing was scored, and
    the results of the run before stay."""

    scored: int = 0
    anomalous: int = 0
    skipped: int = 0
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    top: list[dict] = field(default_factory=list)
    first_skipped: list[tuple[str, str]] = field(default_factory=list)
    sample: list[dict] = field(default_factory=list)
    reasoned: list[float] = field(default_factory=list)
    filled: set[str] = field(default_factory=set)
    keeps_earlier: bool = False


def totals_of(rows: Iterable[dict], count: int, skipped: Sequence[tuple[str, str]]) -> Totals:
    """The totals of `count` rows, which are gone through once, and of the skipped files' names and
    reasons."""
    totals = Totals(count, skipped=len(skipped), first_skipped=list(skipped[:LISTED_SKIPPED]))
    scores = array("d")
    sampled = set(random.Random(0).sample(range(count), SAMPLE)) if count > RANKED else set()

    def counted() -> Iterator[tuple[float, int, dict]]:
        for number, row in enumerate(rows):
            scores.append(row["score"])
            totals.anomalous += bool(row["anomalous"])
            totals.filled |= filled_columns(row)
            if row["reason"]:
                totals.reasoned.append(row["score"])
            if number in sampled:
                totals.sample.append(row)
            yield row["score"], -number, row

    totals.top = [row for *_, row in heapq.nlargest(RANKED, counted(), key=lambda item: item[:2])]
    totals.scores = np.array(scores, np.float64)
    return totals
