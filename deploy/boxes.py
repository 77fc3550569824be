"""From an anomaly map to boxes of what was found: fdsl/boxes.py without OpenCV."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


def upsample(anomaly_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """Anomaly map (G,G) to (height, width): bilinear, corners aligned."""
    above, below, share = neighbours(height, anomaly_map.shape[0])
    rows = anomaly_map[above] * (1 - share[:, None]) + anomaly_map[below] * share[:, None]
    left, right, share = neighbours(width, anomaly_map.shape[1])
    return rows[:, left] * (1 - share) + rows[:, right] * share


def neighbours(length: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For `length` places over `points` samples, ends aligned: left and right sample, and the right one's
    share."""
    position = np.linspace(0, points - 1, length)
    left = np.floor(position).astype(int)
    return left, np.minimum(left + 1, points - 1), (position - left).astype(np.float32)


def find_boxes(anomaly_map: np.ndarray, level: float | None = None, most: int = MOST_BOXES) -> list[Box]:
    """Boxes of the hot regions of an anomaly map (H,W), the hottest first.

    A region is hot where the map reaches `level`, or without one half-way from its median to its maximum; a
    map that nowhere reaches `level` has the region of its maximum alone. Its box bounds what is 8-connected
    with its hottest pixel above half-way from the map's median to that pixel's value; no pixel belongs to
    two. Of two boxes one of which lies inside the other the outer one is left.
    """
    peak, floor = float(anomaly_map.max()), float(np.median(anomaly_map))
    if not peak > floor:
        return []
    if level is not None and level > peak:
        level, most = peak, 1
    level = floor + HALF * (peak - floor) if level is None or level <= floor else level
    boxes: list[Box] = []
    free, smallest = np.ones(anomaly_map.shape, bool), SMALLEST_SHARE * anomaly_map.size
    for top_value, row, column in summits(anomaly_map, level):
        if not free[row, column]:
            continue  # on the slope of a hotter one
        around = Runs(free & (anomaly_map >= min(top_value, floor + HALF * (top_value - floor))))
        region = around.region_of(row, column)
        for line, start, stop in region:
            free[line, start:stop] = False
        box = bounds(region, top_value)
        if not boxes or box.area >= smallest:
            add(box, boxes)
        if len(boxes) == most:
            break
    return boxes


def summits(anomaly_map: np.ndarray, level: float) -> list[tuple[float, int, int]]:
    """(value, row, column) of the hottest pixel of each 8-connected region that reaches `level`, the hottest
    MOST_SUMMITS first."""
    runs = Runs(anomaly_map >= level)
    found: dict[int, tuple[float, int, int]] = {}
    for region, (row, start, stop) in zip(runs.regions, runs.places):
        column = start + int(anomaly_map[row, start:stop].argmax())
        value = float(anomaly_map[row, column])
        if region not in found or value > found[region][0]:
            found[region] = value, row, column
    return sorted(found.values(), key=lambda one: (-one[0], *one[1:]))[:MOST_SUMMITS]


class Runs:
    """A mask (H,W) as runs of pixels that stand side by side in a row: their `places` (row, start, stop), row
    by row, and for each the number of its 8-connected region."""

    def __init__(self, mask: np.ndarray) -> None:
        edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        rows, starts = np.nonzero(edges == 1)
        stops = np.nonzero(edges == -1)[1]
        wide = mask.shape[1] + 2
        # The runs of the row above that touch a run, also at a corner: from the first that ends no further
        # left than it begins to the last that begins no further right than it ends.
        first = np.searchsorted(rows * wide + stops, (rows - 1) * wide + starts, "left")
        last = np.searchsorted(rows * wide + starts, (rows - 1) * wide + stops, "right")
        self.places = list(zip(rows.tolist(), starts.tolist(), stops.tolist()))
        self.regions = joined(first.tolist(), last.tolist())

    def region_of(self, row: int, column: int) -> list[tuple[int, int, int]]:
        """The places of the region that holds a pixel of the mask."""
        own = next(
            region
            for region, (line, start, stop) in zip(self.regions, self.places)
            if line == row and start <= column < stop
        )
        return [place for region, place in zip(self.regions, self.places) if region == own]


def joined(first: list[int], last: list[int]) -> list[int]:
    """Each run touches the earlier ones from `first` to `last`, that one excluded -> the number of each one's
    region."""
    above = list(range(len(first)))

    def root(run: int) -> int:
        while above[run] != run:
            above[run] = above[above[run]]
            run = above[run]
        return run

    for run, (begin, end) in enumerate(zip(first, last)):
        for other in range(begin, end):
            one, two = root(run), root(other)
            above[max(one, two)] = min(one, two)
    return [root(run) for run in range(len(first))]


def bounds(region: list[tuple[int, int, int]], peak: float) -> Box:
    """The box around a region's runs."""
    left, right = min(start for _, start, _ in region), max(stop for _, _, stop in region)
    top, bottom = region[0][0], region[-1][0]
    area = sum(stop - start for _, start, stop in region)
    return Box(left, top, right - left, bottom - top + 1, area, peak)


def add(box: Box, boxes: list[Box]) -> None:
    """Appends a box, or makes it one with the first hotter one that holds it or that it holds."""
    for index, other in enumerate(boxes):
        if holds(other, box) or holds(box, other):
            outer = other if holds(other, box) else box
            boxes[index] = replace(outer, area=other.area + box.area, peak=max(other.peak, box.peak))
            return
    boxes.append(box)


def holds(outer: Box, inner: Box) -> bool:
    """Whether one box lies within another."""
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and outer.x + outer.width >= inner.x + inner.width
        and outer.y + outer.height >= inner.y + inner.height
    )
