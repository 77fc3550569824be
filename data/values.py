"""Values that are not 8 bits, read as the references show: the range of grey values of a part's photographs,
and the normalisation of float tensors, which is undone.

Cameras of 10, 12 and 14 bits write 16-bit files, thermal sensors a narrow band of them, and filters write
floats. Scaled by the file's depth, few grey levels remain. Scaled image by image, no two are comparable.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.images import is_wide, open_wide
from utils.errors import DataError
from utils.limits import GreyRange, most_pixels

logger = logging.getLogger("fdsl")
NARROW = 8  # a band of values this many times narrower than its nominal range becomes the range,
MARGIN = 0.1  # widened below and above by this share of it
SIGNED_TOPS = (0.5, 1.0)  # floats about zero: of v - 0.5, and of 2 v - 1, where v runs from 0 to 1
BITS = (8, 10, 12, 14, 16)  # of a full depth
LOPSIDED = 4  # a signed range reaches at most so many times farther on one side of zero than on the other
FEW_LEVELS = 32  # an image with fewer grey levels hides defects in its steps
LEVELS = 255  # steps between black and white of 8 bits
DARKEST = 16  # the level that the lowest value has at most, where more than half of the levels are seen
OFF_STEP = 0.02  # of a step: values that are 8 bits on another scale lie at most so far from a whole number
STANDARD = 0.002  # distance of mean and deviation from 0 and 1, of an image that was brought to them
OTHER_SCALE = 16  # references whose ranges differ by this factor are of different scales
ABOVE_ONE = 1.5  # floats up to here are those of 0 to 1, with gain
OWN_RANGE = "it has more than 8 bits and the references have not: its own depth or values scale it"
ONE_BY_ONE = (
    "its light and contrast are lost, if each image was brought to them by itself; use one mean and one "
    "deviation for all images"
)
OUTSIDE = 1e-3  # of 0 to 1: values may lie so far outside, by rounding
WHOLE = 0.05  # grey levels: of tensors made from 8 bits, values lie so near to whole levels
MOST_OUTSIDE = 0.001  # of a photograph's pixels: more outside the range are reported


def find_range(given: Iterable[object], chosen: str | None = None) -> GreyRange | None:
    """The range of the photographs (paths or PIL images) of more than 8 bits; None where none has more.

    `chosen`: LOW:HIGH, in place of the one that is found. Raises DataError for a file that cannot be read.
    """
    lows: list[float] = []
    highs: list[float] = []
    wholes: list[bool] = []
    different, standardised = np.empty(0), False
    for item in given:
        values = _wide_values(item)
        if values is not None:
            lows.append(float(values.min()))
            highs.append(float(values.max()))
            wholes.append(values.dtype.kind in "iu")
            standardised = standardised or _is_standardised(values)
            if not wholes[-1] and len(different) <= LEVELS + 1:
                different = np.union1d(different, values)
    if not lows:
        return None
    step = 0.0 if any(wholes) else step_of(different)
    low, high = min(lows), max(highs)
    grey = (GreyRange.of(chosen) if chosen else None) or range_of(low, high, all(wholes), step)
    _warn_of_other_scales(lows, highs)
    if standardised:
        logger.warning("warning: a reference has mean 0 and deviation 1: %s", ONE_BY_ONE)
    span = f"{low:g} and {high:g}" + (f", in steps of {step:g} as 8 bits have them" if step else "")
    ends = f"{grey.low:g} becomes black, {grey.high:g} white"
    logger.info("images of more than 8 bits: the references lie between %s; %s", span, ends)
    return grey


def _is_standardised(values: np.ndarray) -> bool:
    """Whether a photograph was brought to mean 0 and deviation 1 by itself."""
    return bool(abs(values.mean(dtype=np.float64)) < STANDARD > abs(values.std(dtype=np.float64) - 1))


def step_of(different: np.ndarray) -> float:
    """The distance between neighbouring grey levels, of all different values (n,) of photographs in ascending
    order, where they are 8 bits that were shifted and scaled; else 0."""
    if not FEW_LEVELS <= len(different) <= LEVELS + 1:
        return 0.0
    gaps = np.diff(different)
    levels = np.concatenate([[0.0], np.rint(gaps / np.median(gaps)).cumsum()])
    step = float((different[-1] - different[0]) / levels[-1]) if levels[-1] else 0.0
    off = np.abs(different - different[0] - levels * step).max()
    return step if 0 < levels[-1] <= LEVELS and off < OFF_STEP * step else 0.0


def _wide_values(item: object) -> np.ndarray | None:
    if isinstance(item, (str, Path)):
        return open_wide(item)
    return np.asarray(item) if isinstance(item, Image.Image) and is_wide(item) else None


def _warn_of_other_scales(lows: list[float], highs: list[float]) -> None:
    """Warns where one range cannot suit all references, for instance if each file has its own scale."""
    reach = [max(-low, high) for low, high in zip(lows, highs)]
    if max(reach) > OTHER_SCALE * max(min(reach), 1e-12):
        logger.warning(
            "warning: the references' values are of different scales: up to %g in one and %g in another; "
            "write all images on one scale, or the darker ones are black",
            min(reach),
            max(reach),
        )


def range_of(low: float, high: float, whole: bool, step: float = 0.0) -> GreyRange:
    """The range for values from `low` to `high` (`whole`: integers; `step`: of `step_of`).

    With a step it is 255 of them, where `_range_of_steps` places them. Else 0 to the next full depth (255,
    1023, 4095, 16383, 65535), or 1 for floats; around zero the next signed depth, or 0.5 or 1 for floats. A
    narrow band of these, and any other values: low to high with MARGIN.
    """
    if step:
        return _range_of_steps(low, high, step)
    span, reach = high - low, high
    if low < 0 < high and max(high / -low, -low / high) <= LOPSIDED:
        depths = [(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) for bits in BITS]
        depths = depths if whole else [(-top, top) for top in SIGNED_TOPS]
    elif not whole and 0 <= low and high <= ABOVE_ONE:
        depths, reach = [(0.0, 1.0)], min(high, 1.0)
    else:
        depths = [(0.0, 2.0**bits - 1) for bits in BITS]
    for black, white in depths:
        if black <= low and reach <= white and span * NARROW >= white - black:
            return GreyRange(black, white)
    margin = MARGIN * span if span > 0 else 1.0
    return GreyRange(low - margin, high + margin)


def _range_of_steps(low: float, high: float, step: float) -> GreyRange:
    """The 255 steps that hold `low` to `high` and begin at 0, or lie about it, if the steps agree with that.
    Else nothing says where they begin: as many are left below `low` as above `high`, or DARKEST."""
    width = LEVELS * step
    for begin in (0.0, -width / 2):
        first, last = (low - begin) / step, (high - begin) / step
        if abs(first - round(first)) < OFF_STEP and round(first) >= 0 and round(last) <= LEVELS:
            return GreyRange(begin, begin + width)
    seen = round((high - low) / step)
    below = (LEVELS - seen) // 2
    begin = low - step * (min(below, DARKEST) if 2 * seen > LEVELS else below)
    return GreyRange(begin, begin + width)


def doubts(values: np.ndarray, grey: GreyRange) -> str:
    """A warning about the grey values (H,W) of a photograph in this range; "" where there is none."""
    outside = float(((values < grey.low) | (values > grey.high)).mean())
    if outside > MOST_OUTSIDE:
        return (
            f"{outside:.1%} of its grey values lie outside {grey.low:g} to {grey.high:g}, the range of the "
            "references: expose it like them, or add references of all exposures"
        )
    if values.dtype.kind == "f" and _is_standardised(values):
        return f"it has mean 0 and deviation 1: {ONE_BY_ONE}"
    step = (grey.high - grey.low) / LEVELS
    levels = len(np.unique(np.rint((values[:: max(1, values.shape[0] // 256)] - grey.low) / step)))
    if levels < FEW_LEVELS:
        return f"only {levels} grey levels remain: its values fill little of {grey.low:g} to {grey.high:g}"
    return ""


def doubts_of(paths: Sequence[Path], grey: GreyRange | None) -> list[str]:
    """A warning for each file whose grey values do not suit the references' range `grey` (None: they have 8
    bits); none for files of 8 bits."""
    warnings = []
    for path in paths:
        values = open_wide(path)
        if values is not None and (sentence := OWN_RANGE if grey is None else doubts(values, grey)):
            warnings.append(f"{path.name}: {sentence}")
    return warnings


@dataclass(frozen=True)
class Normalisation:
    """Values v of a channel became (v - mean) / std; mean, std: of red, green and blue in 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def undone(self, tensor: Tensor) -> Tensor:
        """A float tensor (3,H,W) before it, float32."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return tensor.detach().float().cpu() * std + mean

    def plain(self, image: Any, name: str = "an image") -> Any:
        """A float tensor (3,H,W) before it, in 0 to 1; anything else as it is. DataError for values that this
        normalisation does not give."""
        if not _is_float_photograph(image):
            return image
        values = self.undone(image)
        if not _holds(values):
            raise DataError(
                f"{name} has values that the references' normalisation does not give (mean {self.mean}, "
                f"deviation {self.std}); normalise all images alike"
            )
        return values.clamp(0, 1)


def _usual() -> Iterator[Normalisation]:
    """From the narrowest to the widest, so that values that suit several are read by the narrowest."""
    from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    yield Normalisation((0.5,) * 3, (1.0,) * 3)
    yield Normalisation((0.5,) * 3, (0.5,) * 3)
    yield Normalisation(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    yield Normalisation(IMAGENET_MEAN, IMAGENET_STD)


def find_normalisation(images: Iterable[Any]) -> Normalisation | None:
    """That of the float tensors (3,H,W) among the references; None where all of them lie in 0 to 1, or none
    of the usual ones gives their values.

    It is one that gives back whole grey levels in all of them, else the narrowest that holds their values.
    """
    tensors = [image for image in images if _is_float_photograph(image)]
    if all(_holds(tensor, 0.0) for tensor in tensors):
        return None
    holding = [one for one in _usual() if all(_holds(one.undone(tensor)) for tensor in tensors)]
    if not holding:
        return None
    exact = [one for one in holding if all(_has_whole_levels(one.undone(tensor)) for tensor in tensors)]
    found = (exact or holding)[0]
    why = "" if exact else ", the narrowest normalisation that holds their values"
    logger.info("normalised tensors: read as of mean %s and deviation %s%s", found.mean, found.std, why)
    return found


def _is_float_photograph(image: object) -> bool:
    """What data/photographs.py takes as floats: with plain values, and not too many."""
    if not isinstance(image, Tensor) or image.layout is not torch.strided or image.is_meta:
        return False
    is_photograph = image.is_floating_point() and image.ndim == 3 and image.shape[0] == 3
    return is_photograph and image[0].numel() <= most_pixels()


def _holds(values: Tensor, outside: float = OUTSIDE) -> bool:
    return bool(((values >= -outside) & (values <= 1 + outside)).all())


def _has_whole_levels(values: Tensor) -> bool:
    return bool((255 * values - (255 * values).round()).abs().max() < WHOLE)
