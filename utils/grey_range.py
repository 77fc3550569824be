"""One range of grey values for all photographs of a part whose files have more than 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

FEW_LEVELS = 32  # an image with fewer grey levels hides defects in its steps


@dataclass(frozen=True)
class GreyRange:
    """Values from `low` (black) to `high` (white), which become 0 to 255; values outside are clipped."""

    low: float
    high: float
