"""The boxes of an anomaly map's hot regions, which OpenCV (fdsl/inspection/regions.py) or NumPy
(deploy/numpy_boxes.py) labels; and the colours of heat maps, the same in all pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

MOST_BOXES = 10
MOST_SUMMITS = 40  # hot regions that are boxed or passed over
HALF = 0.5  # a region's box bounds what lies above this share of its own height
SMALLEST_SHARE = 5e-4  # regions below this share of the photograph are not boxed, the hottest excepted
TOP = 2.0
STOPS = ((255, 200, 0), (255, 140, 0), (240, 40, 20), (225, 0, 70), (220, 0, 140))  # RGB, evenly up to TOP
OPACITY = 0.75  # the defect shows through
GREY_FLOOR = 36  # of the photograph below, so that a black product can be seen

Summit = tuple[float, int, int]  # value, row, column


@dataclass(frozen=True)
class Box:
    """A hot region in the photograph's own pixels: left, top, width, height; its pixels (`area`); its highest
    value."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


def boxes_of(
    anomaly_map: np.ndarray,
    threshold: float | None,
    summits: Callable[[np.ndarray, float], Iterable[Summit]],
    take: Callable[[np.ndarray, np.ndarray, Summit], Box],
) -> list[Box]:
    """Boxes of the hot regions of an anomaly map (H,W), the hottest first.

    A region is hot where the map reaches `threshold`, or without one half-way from its median to its
    maximum. A map that nowhere reaches it has only the region of its maximum. A box bounds the pixels that
    are 8-connected with its hottest one above half-way from the map's median to that pixel's value: so boxes
    do not depend on the threshold. No pixel belongs to two boxes. A box inside another one is merged into it,
    with the pixels of both and the higher peak. A map without variation has no box.

    `summits(map, threshold)`: the hottest pixel of each 8-connected region that reaches the threshold.
    `take(mask, free, summit)`: the box of the mask's region that holds the summit; takes it out of `free`.
    """
    peak, floor, most = float(anomaly_map.max()), float(np.median(anomaly_map)), MOST_BOXES
    if not peak > floor:
        return []
    if threshold is not None and threshold > peak:
        threshold, most = peak, 1
    threshold = floor + HALF * (peak - floor) if threshold is None or threshold <= floor else threshold
    boxes: list[Box] = []
    free, smallest = np.ones(anomaly_map.shape, bool), SMALLEST_SHARE * anomaly_map.size
    hottest = sorted(summits(anomaly_map, threshold), key=lambda one: (-one[0], *one[1:]))[:MOST_SUMMITS]
    for value, row, column in hottest:
        if not free[row, column]:
            continue  # on the slope of a hotter one
        around = free & (anomaly_map >= min(value, floor + HALF * (value - floor)))
        box = take(around, free, (value, row, column))
        if not boxes or box.area >= smallest:
            _add(box, boxes)
        if len(boxes) == most:
            break
    return boxes


def _add(box: Box, boxes: list[Box]) -> None:
    """Appends a box, or merges it with the first hotter one that contains it or that it contains."""
    for index, other in enumerate(boxes):
        if _holds(other, box) or _holds(box, other):
            outer = other if _holds(other, box) else box
            boxes[index] = replace(outer, area=other.area + box.area, peak=max(other.peak, box.peak))
            return
    boxes.append(box)


def _holds(outer: Box, inner: Box) -> bool:
    across = outer.x <= inner.x and outer.x + outer.width >= inner.x + inner.width
    return across and outer.y <= inner.y and outer.y + outer.height >= inner.y + inner.height


def pixel_threshold_of(anomaly_map: np.ndarray, threshold: float | None) -> float | None:
    """The value from which on pixels of an anomalous photograph's map (H,W) are marked as its defect.

    That is `threshold`. Where it is None, or the map nowhere reaches it (the image score is another measure),
    it is half-way from the map's median to its maximum. None for a map without variation.
    """
    peak = float(anomaly_map.max())
    if threshold is not None and peak >= threshold:
        return threshold
    floor = float(np.median(anomaly_map))
    return floor + HALF * (peak - floor) if peak > floor else None


def is_reached(anomaly_map: np.ndarray, threshold: float | None) -> bool:
    """Whether a map reaches its threshold anywhere, or has none. Where it does not, all pixels above half-way
    are normal structure, except the region of its maximum."""
    return threshold is None or float(anomaly_map.max()) >= threshold


def upsample(anomaly_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """Anomaly map (G,G) to (height, width): bilinear, corners aligned; values that are not finite count as 0
    or 1."""
    clean = np.nan_to_num(np.asarray(anomaly_map, dtype=np.float32), posinf=1.0, neginf=0.0)
    above, below, share = _neighbours(height, clean.shape[0])
    rows = clean[above] * (1 - share[:, None]) + clean[below] * share[:, None]
    left, right, share = _neighbours(width, clean.shape[1])
    return rows[:, left] * (1 - share) + rows[:, right] * share


@lru_cache(maxsize=64)
def _neighbours(length: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For `length` places over `points` samples, ends aligned: left and right sample, and the right one's
    share."""
    position = np.linspace(0, points - 1, length)
    left = np.floor(position).astype(int)
    return left, np.minimum(left + 1, points - 1), (position - left).astype(np.float32)


def heat_tables() -> tuple[np.ndarray, np.ndarray]:
    """A map value is transparent up to a scale's low end and at full opacity from its high end on; beyond it
    only the colour changes, up to TOP times the span.

    For shades of heat 0..255, TOP at the end: the colour times its opacity (256,3) uint8, and the weight of
    the photograph below (256,) uint8, of 255."""
    height = np.linspace(0, TOP, 256)
    opacity = OPACITY * np.minimum(1, height)
    places = np.linspace(0, TOP, len(STOPS))
    colours = np.stack([np.interp(height, places, channel) for channel in zip(*STOPS)], axis=-1)
    return (colours * opacity[:, None]).astype(np.uint8), (255 * (1 - opacity)).astype(np.uint8)
