"""The threshold of a decision, as it is stored."""

from __future__ import annotations

from dataclasses import dataclass

LOWEST_RATE = 1e-9  # target false-positive rate: below it a normal distribution is no guide


@dataclass(frozen=True)
class Threshold:
    """From `score` on an image is anomalous, from `level` (the pixel threshold) on a patch is (None:
    unknown). `source`: how they were chosen, as text."""

    score: float
    level: float | None
    source: str
