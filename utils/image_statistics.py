"""Whether an image can show what the references show: its brightness, contrast, sharpness, noise, colours,
repeated and shifted lines, and how much of it the part takes, compared with theirs.

The bounds are wide: they are for frames that show no part, lost some of it, are torn, noisy or out of focus.
On real photographs of six products none is exceeded (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

NO_PART = "no part in the picture"
LOST, SHIFTED = "part of the picture is lost", "part of the picture is shifted"
OUT_OF_FOCUS, NOISY = "out of focus", "noisier than the references"
COLOUR_LOST, LESS_PART = "a colour is lost", "less of the part than in the references"
DARK, BRIGHT = "darker than the references", "brighter than the references"
HARSH = "more contrast than the references"
DIFFERENT = "most of the picture differs from the references"
PER_IMAGE = 11  # statistics
MOST_CONTRAST = 255 / 2  # the standard deviation of half black, half white
CELL = 16  # pixels: side of the cells that the noise is found in,
SMOOTHEST = 0.05  # in this share of them
REPEATED = 0.05  # grey levels, on average: a row or column that differs less from the one before repeats it
ACROSS = 0.7  # of a line's pixels differ from the line before in a step,
STEP = 2  # which is so many lines wide after resizing
BLOCKS = 112  # along a side, about: means of such blocks are as sharp where a small photograph is enlarged
NEAREST_SHIFT = 1 / 32  # of a row's length
GROUND_BLOCKS = 28  # along a side, about: the outermost are ground, of which
GROUND_SHARE = 0.75  # lie as near to their median as ground does; the part differs
PART_SPREADS, PART_LEVELS = 4, 5  # times as much, and by so many levels more
LEAST_CONTRAST, LEAST_SHARPNESS, MOST_SHARPNESS = 1 / 8, 1 / 7, 7.0  # of the references' lowest or highest
LEAST_FOCUS, MOST_NOISE = 1 / 2, 6.0  # likewise,
LEAST_COARSE_FOCUS = 1 / 1.5  # of the other references' lowest: these have no defects, and vary less
NOISE_FLOOR = 0.5  # grey levels: of references with less, as where they are saturated or lack a colour
LEAST_LIGHT = 1 / 8  # of the references' distance from black, and from white
LEAST_HALFTONES = 1 / 3  # of the references' distance from the contrast of nothing but black and white
MORE_REPEATED = 0.15  # of the side, beyond the references' longest run of repeated lines
MORE_SHIFTED = 0.4  # beyond the references' largest shift
LEAST_PART = 1 / 3  # of the references' smallest share of part,
CLEAR_PART = 0.1  # where that is more than this: textures have less, for all of them is ground
MOST_DISTANCE = 3.5  # of a map's median: times that of the references' own maps
# Focus in blocks, of an image that has less contrast than every reference: that of white noise is 2.24, a
# little less after resizing; and times the references' highest.
WHITE, WHITER = 2.0, 1.15
ASPECT = 1.25  # times another ratio of width to height than the references', from which on it is reported


def statistics_of(pixels: np.ndarray) -> np.ndarray:
    """An image (3,S,S) uint8, S from 4 on -> (11,) float64, of its grey levels: mean; standard deviation;
    mean absolute Laplacian; longest run of rows or columns that repeat the one before and end in a step
    across the image, as a share of S; standard deviation of the noise; root mean square of the Laplacian
    divided by that of the gradient; the same of the image of BLOCKS x BLOCKS; how much better a row agrees
    with the one above it after a shift, in variances. Last, of its colours: the least standard deviation of
    one; the share of blocks that are no ground, and the most of it that light from one side may hide."""
    grey = pixels.mean(0, dtype=np.float32)
    down, right, laplacian = _derivatives(grey)
    side = max(len(grey) // BLOCKS, 1)
    columns = _means(grey.T, side).T
    return np.array(
        [
            grey.mean(),
            grey.std(),
            np.abs(laplacian).mean(),
            max(_longest_run(down), _longest_run(right.T)) / len(grey),
            _noise(np.diff(down, axis=0)),
            _focus(down, right, laplacian),
            _focus(*_derivatives(_means(columns, side))),
            _shift(columns - columns.mean()),
            min(colour.std(dtype=np.float32) for colour in pixels),
            *_shares_of_part(pixels),
        ],
        np.float64,
    )


def _derivatives(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S,S) -> differences of rows (S-1,S) and of columns (S,S-1), and the Laplacian (S-2,S-2)."""
    down, right = np.diff(grey, axis=0), np.diff(grey, axis=1)
    return down, right, np.diff(down, axis=0)[:, 1:-1] + np.diff(right, axis=1)[1:-1]


def _focus(down: np.ndarray, right: np.ndarray, laplacian: np.ndarray) -> np.floating:
    gradient = max(np.square(down).mean() + np.square(right).mean(), np.finfo(np.float32).tiny)
    return np.sqrt(np.square(laplacian).mean() / gradient)


def _means(lines: np.ndarray, count: int) -> np.ndarray:
    """(n,m) -> (n // count,m), the means of so many lines each; what is left over is cut."""
    end = len(lines) // count * count
    return np.add.reduce([lines[first:end:count] for first in range(count)]) / count


def _shift(grey: np.ndarray) -> float:
    """Grey levels (S,n) of mean 0 -> the largest of: how much better two rows agree with a shift of the lower
    one than without, less how much they still differ, as a share of their variance or the image's, the
    largest. The rows lie STEP apart, for a step is so wide after resizing; what leaves a row at one end comes
    in again at the other. 0 where rows are so short that they agree by chance."""
    length = grey.shape[1]
    if length < BLOCKS:
        return 0.0
    energy = np.square(grey).mean(1)
    larger = np.maximum(energy[:-STEP], energy[STEP:])
    spectra = np.fft.rfft(grey)
    products = np.fft.irfft(spectra[:-STEP].conj() * spectra[STEP:], n=length) / length  # (S-STEP, shifts)
    close = np.minimum(np.arange(length), length - np.arange(length)) <= NEAREST_SHIFT * length
    shifted, still = products[:, ~close].max(1), products[:, close].max(1)
    gain = (shifted - still) - (larger - shifted)
    return float((gain / np.maximum(larger, max(energy.mean(), np.finfo(np.float32).tiny))).max())


def _shares_of_part(pixels: np.ndarray) -> tuple[float, float]:
    """An image (3,S,S) uint8 -> the share of blocks of which a colour differs clearly from the median of the
    outermost blocks, more than these do among each other. Then the larger one of this and of the same of
    levelled blocks: the light that rises from one side to the other, by the median of their differences, is
    taken out."""
    side = max(pixels.shape[1] // GROUND_BLOCKS, 1)
    count = pixels.shape[1] // side
    rows = pixels[:, : count * side, : count * side].reshape(3, count, side, -1).sum(2, dtype=np.uint32)
    blocks = rows.reshape(3, count, count, side).sum(3) / side**2
    place = np.linspace(-0.5, 0.5, count)
    rises = blocks[:, -1] - blocks[:, 0], blocks[..., -1] - blocks[..., 0]
    down, right = (np.median(rise, 1)[:, None, None] for rise in rises)
    share = _share_of_part(blocks)
    return share, max(share, _share_of_part(blocks - down * place[:, None] - right * place))


def _share_of_part(blocks: np.ndarray) -> float:
    """Blocks of an image (3,n,n) -> the share of them that is no ground."""
    outermost = np.ones(blocks.shape[1:], bool)
    outermost[1:-1, 1:-1] = False
    ground = np.median(blocks[:, outermost], 1)
    distances = np.abs(blocks - ground[:, None, None]).max(0)
    spread = np.quantile(distances[outermost], GROUND_SHARE)
    return float((distances > PART_SPREADS * spread + PART_LEVELS).mean())


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


def _noise(bent: np.ndarray) -> float:
    """Second differences of rows (h,w) -> the standard deviation of white noise that gives them and those of
    columns (Immerkaer 1996), where the image is smoothest: over all of it, texture counts as noise."""
    differences = np.diff(bent, n=2, axis=1)
    rows, columns = (side // CELL for side in differences.shape)
    cells = np.abs(differences[: rows * CELL, : columns * CELL]).reshape(rows, CELL, columns, CELL)
    if not cells.size:
        return 0.0
    return float(np.quantile(cells.mean((1, 3)), SMOOTHEST) * np.sqrt(np.pi / 2) / 6)


def reason_of(found: np.ndarray, references: np.ndarray, least_coarse: float = LEAST_FOCUS) -> str:
    """Why an image of these statistics (11,) cannot be judged by references of those (K,11); "" where it
    can. `least_coarse`: the least focus in blocks, of the references' lowest."""
    brightness, contrast, sharpness, repeated, noise, focus, coarse, shift, colour, _, share = found
    low, high = references.min(0), references.max(0)
    if contrast < LEAST_CONTRAST * low[1]:
        return NO_PART
    if brightness < LEAST_LIGHT * low[0]:
        return DARK
    if 255 - brightness < LEAST_LIGHT * (255 - high[0]):
        return BRIGHT
    if repeated > high[3] + MORE_REPEATED:
        return LOST
    if colour < LEAST_CONTRAST * low[8] - NOISE_FLOOR:
        return COLOUR_LOST
    if shift > max(high[7], 0) + MORE_SHIFTED:
        return SHIFTED
    blurred = focus < LEAST_FOCUS * low[5] or coarse < least_coarse * low[6]
    if blurred or sharpness < LEAST_SHARPNESS * low[2]:
        return OUT_OF_FOCUS
    if noise > MOST_NOISE * max(high[4], NOISE_FLOOR) or sharpness > MOST_SHARPNESS * high[2]:
        return NOISY
    white = coarse > max(WHITE, WHITER * high[6]) and contrast < low[1]
    if white:
        return NO_PART
    if low[9] > CLEAR_PART and share < LEAST_PART * low[9]:
        return LESS_PART
    return HARSH if MOST_CONTRAST - contrast < LEAST_HALFTONES * (MOST_CONTRAST - high[1]) else ""


def map_median(maps: np.ndarray) -> float:
    """The median of the values of anomaly maps, of any shape, that are not 0, as patches outside a region of
    interest are; 0 where all are."""
    values = maps[maps > 0]
    return float(np.median(values)) if len(values) else 0.0


def reason_of_map(patch_map: np.ndarray, normal: float | None) -> str:
    """Why an image of this anomaly map (G,G) of distances cannot show what the references show; "" where it
    can. `normal`: the `map_median` of normal images, None or 0 where it is not known."""
    return DIFFERENT if normal and map_median(patch_map) > MOST_DISTANCE * normal else ""


def reasons_among(found: np.ndarray) -> dict[int, str]:
    """Those of several references, by their statistics (K,11), that cannot be judged by the others, each with
    the reason."""
    if len(found) < 2:
        return {}
    least_coarse = LEAST_COARSE_FOCUS if len(found) > 2 else LEAST_FOCUS
    each = (reason_of(one, np.delete(found, place, axis=0), least_coarse) for place, one in enumerate(found))
    return {place: reason for place, reason in enumerate(each) if reason}


def implausible_references(found: np.ndarray) -> dict[int, str]:
    """Which of `reasons_among` cannot show what the others show; never half of them or more. Of two, the one
    that shows no part, or where that might be either, lost some of it; else the one that is torn, out of
    focus or lost a colour, if the other has no reason."""
    reasons = reasons_among(found)
    given = set(reasons.values())
    if len(found) == 2 and NO_PART in given:
        wanted = LOST if LOST in given else NO_PART
        reasons = {place: reason for place, reason in reasons.items() if reason == wanted}
    elif len(found) == 2 and not given <= {SHIFTED, OUT_OF_FOCUS, COLOUR_LOST}:
        return {}
    return reasons if 2 * len(reasons) < max(len(found), 3) else {}


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
