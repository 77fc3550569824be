"""What counts as a number."""

from __future__ import annotations

import numpy as np


def is_finite(value: object) -> bool:
    """Whether it is one number that a float can hold."""
    try:
        return isinstance(value, (int, float, np.floating, np.integer)) and bool(np.isfinite(float(value)))
    except OverflowError:
        return False
