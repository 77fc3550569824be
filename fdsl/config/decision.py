"""The threshold of a decision, as it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from utils.errors import ConfigError
from utils.options import is_stored_number

LOWEST_RATE = 1e-9  # target false-positive rate: below it a normal distribution is no guide


@dataclass(frozen=True)
class Threshold:
    """From `score` on an image is anomalous, from `level` (the pixel threshold) on a patch is (None:
    unknown). `source`: how they were chosen, as text."""

    score: float
    level: float | None
    source: str

    @classmethod
    def from_json(cls, values: Any) -> Threshold:
        """From stored values; ConfigError for any other."""
        if not isinstance(values, dict) or set(values) != {"score", "level", "source"}:
            raise ConfigError("its threshold has other fields than score, level and source")
        threshold = cls(values["score"], values["level"], values["source"])
        numbers = [threshold.score] if threshold.level is None else [threshold.score, threshold.level]
        if not all(is_stored_number(number) for number in numbers) or not isinstance(threshold.source, str):
            raise ConfigError("its threshold is no number")
        return threshold
