"""What counts as a number, and how many of its digits are shown."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

FEWEST_DIGITS, MOST_DIGITS = 4, 9
TOLD_APART = 0.9  # of different values, which read differently then


def is_finite(value: object) -> bool:
    """Whether it is one number that a float can hold."""
    try:
        return isinstance(value, (int, float, np.floating, np.integer)) and bool(np.isfinite(float(value)))
    except OverflowError:
        return False


def digits_of(values: Iterable[float | None]) -> int:
    """How many significant digits are shown of these scores, so that nine in ten different ones read
    differently: saturated ones differ late."""
    different = {float(value) for value in values if is_finite(value)}
    for digits in range(FEWEST_DIGITS, MOST_DIGITS):
        if len({f"{value:.{digits}g}" for value in different}) >= TOLD_APART * len(different):
            return digits
    return MOST_DIGITS
