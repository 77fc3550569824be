"""From anomaly maps to the boxes of what was found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

MOST_BOXES = 10


MOST_SUMMITS = 40  # hot regions that are looked at


HALF = 0.5  # a region's box bounds what lies above this share of its own height


SMALLEST_SHARE = 5e-4  # regions below this share of the photograph are not boxed, the hottest excepted


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


def find_boxes(anomaly_map: np.ndarray, level: float | None = None, most: int = MOST_BOXES) -> list[Box]:
    """Boxes of the hot regions of an anomaly map (H,W), the hottest first.

    A region is hot where the map reaches `level`, or without one half-way from its median to its maximum; a
    map that nowhere reaches `level` has the region of its maximum alone. Its box bounds what is 8-connected
    with its hottest pixel above half-way from the map's median to that pixel's value, so that boxes neither
    shrink with a high level nor blow up with a low one; no pixel belongs to two. Of two boxes one of which
    lies inside the other the outer one is left, with the pixels of both and the higher peak. A map without
    variation has no box.
    """
    peak, floor = float(anomaly_map.max()), float(np.median(anomaly_map))
    if not peak > floor:
        return []
    if level is not None and level > peak:
        level, most = peak, 1
    level = floor + HALF * (peak - floor) if level is None or level <= floor else level
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (anomaly_map >= level).astype(np.uint8), connectivity=8
    )
    summits = []
    for index in range(1, count):
        left, top, width, height = (int(stats[index, part]) for part in range(4))
        part = np.s_[top : top + height, left : left + width]
        values = np.where(labels[part] == index, anomaly_map[part], -np.inf)
        row, column = divmod(int(values.argmax()), width)
        summits.append((float(values[row, column]), top + row, left + column))
    boxes: list[Box] = []
    free, smallest = np.ones(anomaly_map.shape, bool), SMALLEST_SHARE * anomaly_map.size
    for top_value, row, column in sorted(summits, key=lambda summit: (-summit[0], *summit[1:]))[
        :MOST_SUMMITS
    ]:
        if not free[row, column]:
            continue  # on the slope of a hotter one
        around = (free & (anomaly_map >= min(top_value, floor + HALF * (top_value - floor)))).astype(
            np.uint8, order="C"
        )
        area, *_, (left, top, width, height) = cv2.floodFill(around, None, (column, row), 2, flags=8)
        free &= around != 2
        if not boxes or area >= smallest:
            _add(Box(left, top, width, height, area, top_value), boxes)
        if len(boxes) == most:
            break
    return boxes


def _add(box: Box, boxes: list[Box]) -> None:
    """Appends a box, or makes it one with the first hotter one that holds it or that it holds."""
    for index, other in enumerate(boxes):
        if _holds(other, box) or _holds(box, other):
            outer = other if _holds(other, box) else box
            boxes[index] = replace(outer, area=other.area + box.area, peak=max(other.peak, box.peak))
            return
    boxes.append(box)


def _holds(outer: Box, inner: Box) -> bool:
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and outer.x + outer.width >= inner.x + inner.width
        and outer.y + outer.height >= inner.y + inner.height
    )
