"""One range of grey values for all photographs of a part whose files have more than 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

FEW_LEVELS = 32  # an image with fewer grey levels hides defects in its steps


@dataclass(frozen=True)
class GreyRange:
    """Values from `low` (black) to `high` (white), which become 0 to 255; values outside are clipped."""

    low: float
    high: float

    @classmethod
    def of(cls, text: str) -> GreyRange | None:
        """The range of LOW:HIGH; None for any other text."""
        low, _, high = text.partition(":")
        try:
            found = cls(float(low), float(high))
        except ValueError:
            return None
        return found if -math.inf < found.low < found.high < math.inf else None
