"""Limits that flags, readers and deploy/ share, and the range of grey values of files of more than 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

AUTO_TILES = -1  # as a number of tiles: chosen by the photographs' size
MOST_TILES = 4  # along a side of a square photograph
MAX_PIXELS = 100_000_000  # of a photograph: a larger one is refused, unless --max-pixels allows it

_most_pixels = MAX_PIXELS


def most_pixels() -> int:
    """The pixels of the largest image that this process opens."""
    return _most_pixels


def allow_pixels(count: int) -> None:
    """Sets `most_pixels`; processes that load images for this one (`data.dataset.make_loader`) get it too."""
    global _most_pixels
    _most_pixels = count


@dataclass(frozen=True)
class GreyRange:
    """Values from `low` (black) to `high` (white), which become 0 to 255 in all photographs of a part; values
    outside are clipped."""

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
