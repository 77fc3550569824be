"""Image scores as log-odds, which are assumed to be normally distributed for normal images."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

TINY = 1e-6  # scores are clipped this far from 0 and 1


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
