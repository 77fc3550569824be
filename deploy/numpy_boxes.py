"""Boxes of the hot regions of anomaly maps, and the mask of those that reach the pixel threshold, by NumPy
alone."""

from __future__ import annotations

import numpy as np

from utils.hot_regions import Box, Summit, boxes_of, is_reached, pixel_threshold_of


def find_boxes(anomaly_map: np.ndarray, threshold: float | None = None) -> list[Box]:
    """Boxes of the hot regions of an anomaly map (H,W), the hottest first: see `boxes_of`."""
    return boxes_of(anomaly_map, threshold, summits, take)


def mask_of(anomaly_map: np.ndarray, threshold: float | None) -> np.ndarray:
    """(H,W) bool: the pixels of an anomalous photograph's regions, as fdsl/inspection/regions.py has them."""
    limit = pixel_threshold_of(anomaly_map, threshold)
    if limit is None:
        return np.zeros(anomaly_map.shape, bool)
    mask = anomaly_map >= limit
    if is_reached(anomaly_map, threshold):
        return mask
    own, highest = np.zeros_like(mask), int(anomaly_map.argmax())
    for row, start, stop in Runs(mask).region_of(*divmod(highest, anomaly_map.shape[1])):
        own[row, start:stop] = True
    return own


def summits(anomaly_map: np.ndarray, threshold: float) -> list[Summit]:
    """The hottest pixel of each 8-connected region that reaches `threshold`."""
    runs = Runs(anomaly_map >= threshold)
    hottest: dict[int, Summit] = {}
    for region, (row, start, stop) in zip(runs.regions, runs.places):
        column = start + int(anomaly_map[row, start:stop].argmax())
        value = float(anomaly_map[row, column])
        if region not in hottest or value > hottest[region][0]:
            hottest[region] = value, row, column
    return list(hottest.values())


def take(mask: np.ndarray, free: np.ndarray, summit: Summit) -> Box:
    """The box of the region of a mask that holds a summit; takes the region out of `free`."""
    value, row, column = summit
    region = Runs(mask).region_of(row, column)
    for line, start, stop in region:
        free[line, start:stop] = False
    left, right = min(start for _, start, _ in region), max(stop for _, _, stop in region)
    top, bottom = region[0][0], region[-1][0]
    area = sum(stop - start for _, start, stop in region)
    return Box(left, top, right - left, bottom - top + 1, area, value)


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
