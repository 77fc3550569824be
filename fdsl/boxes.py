"""Boxes of the hot regions of anomaly maps, by OpenCV."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from utils.hot_regions import Box, Summit, boxes_of


def find_boxes(anomaly_map: np.ndarray, threshold: float | None = None) -> list[Box]:
    """Boxes of the hot regions of an anomaly map (H,W), the hottest first: see `boxes_of`."""
    return boxes_of(anomaly_map, threshold, _summits, _take)


def _summits(anomaly_map: np.ndarray, threshold: float) -> Iterator[Summit]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (anomaly_map >= threshold).astype(np.uint8), connectivity=8
    )
    for index in range(1, count):
        left, top, width, height = (int(stats[index, side]) for side in range(4))
        part = np.s_[top : top + height, left : left + width]
        values = np.where(labels[part] == index, anomaly_map[part], -np.inf)
        row, column = divmod(int(values.argmax()), width)
        yield float(values[row, column]), top + row, left + column


def _take(mask: np.ndarray, free: np.ndarray, summit: Summit) -> Box:
    value, row, column = summit
    filled = mask.astype(np.uint8, order="C")
    area, *_, (left, top, width, height) = cv2.floodFill(filled, None, (column, row), 2, flags=8)
    free &= filled != 2
    return Box(left, top, width, height, area, value)
