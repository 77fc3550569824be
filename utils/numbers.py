"""Which values are finite numbers, how many of their digits are displayed, and scores as log-odds, which are
assumed to be normally distributed for normal images."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import NormalDist

import numpy as np

FEWEST_DIGITS, MOST_DIGITS = 4, 9
TINY = 1e-6  # log-odds are of scores that are clipped this far from 0 and 1
DISTINCT = 0.9  # of different values, that are displayed differently


def is_finite(value: object) -> bool:
    """Whether a value is one number that a float can hold."""
    try:
        return isinstance(value, (int, float, np.floating, np.integer)) and bool(np.isfinite(float(value)))
    except OverflowError:
        return False


def digits_of(values: Iterable[float | None]) -> int:
    """The number of significant digits with which nine in ten different scores are displayed differently:
    saturated ones differ late."""
    different = {float(value) for value in values if is_finite(value)}
    for digits in range(FEWEST_DIGITS, MOST_DIGITS):
        if len({f"{value:.{digits}g}" for value in different}) >= DISTINCT * len(different):
            return digits
    return MOST_DIGITS


def log_odds(values: np.ndarray) -> np.ndarray:
    """Values (n,) in [0,1] -> their log-odds, clipped TINY away from both ends."""
    clean = np.clip(np.asarray(values, np.float64), TINY, 1 - TINY)
    return np.log(clean / (1 - clean))


def percentile_of(score: float, mean: float, deviation: float) -> float:
    """The percentile of a score among normal images whose log-odds have this mean and standard deviation."""
    gap = float(log_odds(np.array([score]))[0]) - mean
    if deviation == 0:
        return 50.0 if gap == 0 else 100.0 * (gap > 0)
    return 100 * NormalDist().cdf(gap / deviation)
