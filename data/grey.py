"""Grey values of more than 8 bits: the range of a part's photographs, found from its references.

Cameras of 10, 12 and 14 bits write 16-bit files, thermal sensors a narrow band of them, and filters write
floats. Scaled by the file's depth, few grey levels are left; scaled picture by picture, no two are alike.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.images import MAX_PIXELS, is_wide, open_wide
from utils.grey_range import FEW_LEVELS, GreyRange

logger = logging.getLogger("fdsl")
NARROW = 8  # a band of values this many times narrower than its nominal range is taken by itself,
MARGIN = 0.25  # with so much room below and above it, as shares of it
ABOVE_ONE = 1.5  # floats up to here are those of 0 to 1, with gain
LEFT = 0.001  # of a photograph's pixels: more than that outside the range is reported


def find_range(
    given: Iterable[str | Path | Image.Image | object], max_pixels: int = MAX_PIXELS
) -> GreyRange | None:
    """The range of the photographs (paths or PIL images) of more than 8 bits; None where none has more.

    Raises DataError for a file that cannot be read.
    """
    lows, highs, whole = [], [], True
    for item in given:
        values = _wide_values(item, max_pixels)
        if values is not None:
            lows.append(float(values.min()))
            highs.append(float(values.max()))
            whole = whole and values.dtype.kind in "iu"
    if not lows:
        return None
    found = range_of(min(lows), max(highs), whole)
    logger.info(
        "images of more than 8 bits: the references lie between %g and %g; %g becomes black, %g white",
        min(lows),
        max(highs),
        found.low,
        found.high,
    )
    return found


def _wide_values(item: object, max_pixels: int) -> np.ndarray | None:
    if isinstance(item, (str, Path)):
        return open_wide(item, max_pixels)
    return np.asarray(item) if isinstance(item, Image.Image) and is_wide(item) else None


def range_of(low: float, high: float, whole: bool) -> GreyRange:
    """The range for values that lie between two: 0 to the next full depth (255, 1023, 4095, 16383, 65535),
    for floats 0 to 1 as well; a narrow band of it, or what lies elsewhere, from its own lowest to its highest
    with MARGIN around it."""
    tops = [2.0**bits - 1 for bits in (8, 10, 12, 14, 16)]
    if not whole and low >= 0 and high <= ABOVE_ONE:
        tops = [1.0]
    top = next((top for top in tops if high <= top or top == 1.0), None)
    span = high - low
    if top is not None and low >= 0 and span * NARROW >= top:
        return GreyRange(0.0, top)
    margin = MARGIN * span if span > 0 else 1.0
    return GreyRange(low - margin, high + margin)


def doubts(values: np.ndarray, grey: GreyRange) -> str:
    """What a reader should know of a wide photograph (H,W) within a range; "" for nothing."""
    outside = float(((values < grey.low) | (values > grey.high)).mean())
    if outside > LEFT:
        return (
            f"{outside:.1%} of its grey values lie outside {grey.low:g} to {grey.high:g}, the range of the "
            "references: expose it as they were, or show references of all exposures"
        )
    step = (grey.high - grey.low) / 255
    levels = len(np.unique(np.rint((values[:: max(1, values.shape[0] // 256)] - grey.low) / step)))
    if levels < FEW_LEVELS:
        filled = f"its values fill little of {grey.low:g} to {grey.high:g}"
        return f"only {levels} grey levels are left of it: {filled}"
    return ""


def doubts_of(paths: Sequence[Path], grey: GreyRange | None, max_pixels: int = MAX_PIXELS) -> list[str]:
    """A sentence for each of some files that there are doubts about; none for files of 8 bits."""
    found = []
    for path in paths if grey is not None else ():
        values = open_wide(path, max_pixels)
        if values is not None and grey is not None and (sentence := doubts(values, grey)):
            found.append(f"{path.name}: {sentence}")
    return found
