"""How far the scores of normal and of defective pixels overlap, for a picture of both distributions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdsl.metrics.pixel_scores import Population

BINS = 80


@dataclass(frozen=True)
class Overlap:
    """Bins of equal width between `low` and `high`, and the share of all normal and of all defective pixels
    in each (n,)."""

    low: float
    high: float
    normal: tuple[float, ...]
    defects: tuple[float, ...]

    @classmethod
    def of(cls, normal: Population, defects: Population) -> Overlap:
        """Of two populations of at least one score each."""
        low = float(min(normal.scores[0], defects.scores[0]))
        high = float(max(normal.scores[-1], defects.scores[-1]))
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        shares = [_shares(part, edges) for part in (normal, defects)]
        return cls(low, float(edges[-1]), *shares)

    @property
    def share(self) -> float:
        """The area that both distributions have in common: 0 where they are apart, 1 where they are alike."""
        return float(np.minimum(self.normal, self.defects).sum())

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "share": self.share}

    @classmethod
    def from_json(cls, values: Any) -> Overlap | None:
        """From what `to_json` gave; None for anything else."""
        if not isinstance(values, Mapping):
            return None
        ends = [values.get("low"), values.get("high")]
        parts = [values.get("normal"), values.get("defects")]
        if not all(isinstance(part, list) and len(part) == BINS for part in parts):
            return None
        try:
            numbers = np.array([*ends, *parts[0], *parts[1]], dtype=np.float64)  # type: ignore[misc]
        except (TypeError, ValueError):
            return None
        if not np.isfinite(numbers).all() or min(numbers[2 : 2 + BINS].max(), numbers[2 + BINS :].max()) <= 0:
            return None
        normal, defects = numbers[2:].reshape(2, BINS).tolist()
        return cls(float(numbers[0]), float(numbers[1]), tuple(normal), tuple(defects))


def _shares(population: Population, edges: np.ndarray) -> tuple[float, ...]:
    counts = np.histogram(population.scores, edges, weights=population.mass)[0]
    return tuple((counts / counts.sum()).tolist())
