"""Whether an image can show what the references show: its brightness, contrast, sharpness, noise and
repeated lines compared with theirs.

The bounds are wide: they are for frames that show no part, lost some of it, are noisy or out of focus. On
real photographs of six products none is exceeded (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

NO_PART = "no part in the picture"
LOST = "part of the picture is lost"
OUT_OF_FOCUS, NOISY = "out of focus", "noisier than the references"
DARK, BRIGHT = "darker than the references", "brighter than the references"
PER_IMAGE = 6  # statistics
CELL = 16  # pixels: side of the cells that the noise is found in,
SMOOTHEST = 0.05  # in this share of them
REPEATED = 0.05  # grey levels, on average: a row or column that differs less from the one before repeats it
ACROSS = 0.7  # of a line's pixels differ from the line before in a step,
STEP = 2  # which is so many lines wide after resizing
LEAST_CONTRAST, LEAST_SHARPNESS, MOST_SHARPNESS = 1 / 8, 1 / 7, 7.0  # of the references' lowest or highest
LEAST_FOCUS, MOST_NOISE = 0.5, 6.0  # likewise,
NOISE_FLOOR = 0.5  # grey levels: of references with less, as where their ground is saturated
LEAST_LIGHT = 1 / 8  # of the references' distance from black, and from white
MORE_REPEATED = 0.15  # of the side, beyond the references' longest run of repeated lines
ASPECT = 1.25  # times another ratio of width to height than the references', from which on it is reported


def statistics_of(pixels: np.ndarray) -> np.ndarray:
    """An image (3,S,S) uint8, S from 4 on -> (6,) float64, of its grey levels: mean; standard deviation; mean
    absolute Laplacian; longest run of rows or columns that repeat the one before and end in a step across the
    image, as a share of S; standard deviation of the noise; root mean square of the Laplacian divided by that
    of the gradient."""
    grey = pixels.astype(np.float32).mean(0)
    down, right = np.diff(grey, axis=0), np.diff(grey, axis=1)
    bent = np.diff(down, axis=0)
    laplacian = bent[:, 1:-1] + np.diff(right, axis=1)[1:-1]
    gradient = max(np.square(down).mean() + np.square(right).mean(), np.finfo(np.float32).tiny)
    return np.array(
        [
            grey.mean(),
            grey.std(),
            np.abs(laplacian).mean(),
            max(_longest_run(down), _longest_run(right.T)) / len(grey),
            _noise(np.diff(bent, n=2, axis=1)),
            np.sqrt(np.square(laplacian).mean() / gradient),
        ],
        np.float64,
    )


def _longest_run(differences: np.ndarray) -> int:
    """Lines' differences (n,S) from the one before -> how many lines one after the other repeat it, next to a
    step. Beside a part on uniform ground lines repeat each other too, but the next one changes in places."""
    sizes = np.abs(differences)
    repeats, steps = sizes.mean(1) < REPEATED, (sizes > REPEATED).mean(1) >= ACROSS
    longest, end = 0, 0
    for same, run in groupby(repeats):
        start, end = end, end + len(list(run))
        ends = [steps[part] for part in (slice(max(start - STEP, 0), start), slice(end, end + STEP))]
        if same and all(part.any() for part in ends if len(part)):
            longest = max(longest, end - start)
    return longest


def _noise(differences: np.ndarray) -> float:
    """Second differences in both directions (h,w) -> the standard deviation of white noise that gives them
    (Immerkaer 1996), where the image is smoothest: over all of it, texture counts as noise."""
    rows, columns = (side // CELL for side in differences.shape)
    cells = np.abs(differences[: rows * CELL, : columns * CELL]).reshape(rows, CELL, columns, CELL)
    if not cells.size:
        return 0.0
    return float(np.quantile(cells.mean((1, 3)), SMOOTHEST) * np.sqrt(np.pi / 2) / 6)


def reason_of(found: np.ndarray, references: np.ndarray) -> str:
    """Why an image of these statistics (6,) cannot be judged by references of those (K,6); "" where it
    can."""
    brightness, contrast, sharpness, repeated, noise, focus = found
    low, high = references.min(0), references.max(0)
    if contrast < LEAST_CONTRAST * low[1]:
        return NO_PART
    if brightness < LEAST_LIGHT * low[0]:
        return DARK
    if 255 - brightness < LEAST_LIGHT * (255 - high[0]):
        return BRIGHT
    if repeated > high[3] + MORE_REPEATED:
        return LOST
    if sharpness < LEAST_SHARPNESS * low[2] or focus < LEAST_FOCUS * low[5]:
        return OUT_OF_FOCUS
    noisy = noise > MOST_NOISE * max(high[4], NOISE_FLOOR)
    return NOISY if noisy or sharpness > MOST_SHARPNESS * high[2] else ""


def implausible_references(found: np.ndarray) -> list[int]:
    """Which of several references, by their statistics (K,6), cannot show what the others show; never half of
    them or more. Of two, the one that shows no part, or where that might be either, lost some of it."""
    reasons = [
        reason_of(one, np.delete(found, number, axis=0)) if len(found) > 1 else ""
        for number, one in enumerate(found)
    ]
    if len(found) == 2:
        odd = [number for number, reason in enumerate(reasons) if reason == NO_PART]
        return [reasons.index(LOST)] if odd and LOST in reasons else odd
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
