"""One range of grey values for all photographs of a part whose files have more than 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

FEW_LEVELS = 32  # fewer are left of a range: defects drown in steps


@dataclass(frozen=True)
class GreyRange:
    """Values from `low` (black) to `high` (white), which become 0 to 255; what lies outside is cut."""

    low: float
    high: float
