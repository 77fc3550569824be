"""Which values are finite numbers, and how many of their digits are displayed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

FEWEST_DIGITS, MOST_DIGITS = 4, 9
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
