"""Whether an image can show what the references show: its brightness, contrast, sharpness and uniform area
compared with theirs.

The bounds are wide: they are for frames that show no part, lost half of it or are out of focus. On real
photographs of six products none is exceeded (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NO_PART = "no part in the picture"
OUT_OF_FOCUS, NOISY = "out of focus", "noisier than the references"
DARK, BRIGHT = "darker than the references", "brighter than the references"
UNIFORM = "part of the picture is uniform"
CELL = 16  # pixels: side of the cells whose contrast tells a uniform area
FLAT = 0.5  # grey levels: standard deviation of a uniform cell
LEAST_CONTRAST, LEAST_SHARPNESS, MOST_SHARPNESS = 1 / 8, 1 / 7, 7.0  # of the references' lowest or highest
LEAST_LIGHT = 1 / 8  # of the references' distance from black, and from white
ASPECT = 1.25  # times another ratio of width to height than the references', from which on it is reported
MORE_UNIFORM = 0.25  # of the image, beyond the references' largest uniform area


def statistics_of(pixels: np.ndarray) -> np.ndarray:
    """An image (3,S,S) uint8 -> (4,) float64: mean and standard deviation of its grey levels, the mean of its
    absolute Laplacian, and the share of cells that are uniform."""
    grey = pixels.astype(np.float32).mean(0)
    centre = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    rows, columns = (side // CELL * CELL for side in grey.shape)
    cells = grey[:rows, :columns].reshape(rows // CELL, CELL, columns // CELL, CELL)
    uniform = (cells.std((1, 3)) < FLAT).mean() if rows and columns else 0.0
    sharpness = np.abs(4 * centre - around).mean() if centre.size else 0.0
    return np.array([grey.mean(), grey.std(), sharpness, uniform], np.float64)


def reason_of(found: np.ndarray, references: np.ndarray) -> str:
    """Why an image of these statistics (4,) cannot be judged by references of those (K,4); "" where it
    can."""
    brightness, contrast, sharpness, uniform = found
    low, high = references.min(0), references.max(0)
    if contrast < LEAST_CONTRAST * low[1]:
        return NO_PART
    if brightness < LEAST_LIGHT * low[0]:
        return DARK
    if 255 - brightness < LEAST_LIGHT * (255 - high[0]):
        return BRIGHT
    if sharpness < LEAST_SHARPNESS * low[2]:
        return OUT_OF_FOCUS
    if uniform > high[3] + MORE_UNIFORM:
        return UNIFORM
    return NOISY if sharpness > MOST_SHARPNESS * high[2] else ""


def implausible_references(found: np.ndarray) -> list[int]:
    """Which of several references, by their statistics (K,4), cannot show what the others show; never half of
    them or more. Of two, the one that shows no part."""
    reasons = [
        reason_of(one, np.delete(found, number, axis=0)) if len(found) > 1 else ""
        for number, one in enumerate(found)
    ]
    if len(found) == 2:
        return [number for number, reason in enumerate(reasons) if reason == NO_PART]
    odd = [number for number, reason in enumerate(reasons) if reason]
    return odd if 2 * len(odd) < len(found) else []


def other_shape(size: tuple[int, int], references: Sequence[tuple[int, ...]]) -> str | None:
    """A sentence where a photograph's (width, height) has another shape than every reference's; None where
    one is like it."""
    ratio = size[0] / size[1]
    ratios = [width / height for width, height in references]
    if not ratios or any(1 / ASPECT < ratio / one < ASPECT for one in ratios):
        return None
    width, height = references[0]
    return (
        f"it is {size[0]} x {size[1]} pixels, of another aspect ratio than the references "
        f"({width} x {height}): resizing distorts it. Crop it to their shape"
    )
