"""From scores and maps to a decision: thresholds, and the boxes of what was found."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MOST_BOXES = 10
HALF = 0.5               # a region's box bounds what lies above this share of its own height
SMALLEST_SHARE = 1e-4    # regions below this share of the photograph are not boxed, the hottest excepted


@dataclass(frozen=True)
class Box:
    """A hot region in the photograph's own pixels: left, top, width, height; its pixels (`area`); its highest value."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


def find_boxes(anomaly_map: np.ndarray, level: float | None = None, most: int = MOST_BOXES) -> list[Box]:
    """Boxes of the hot regions of an anomaly map (H,W), the hottest first.

    Regions are 8-connected where the map reaches `level` (None, or above the map's maximum: half-way from its median to
    its maximum). Of each region the box bounds what lies half-way between the map's median and the region's own peak,
    so that a low level does not blow boxes up. A map without variation has no box.
    """
    peak, floor = float(anomaly_map.max()), float(np.median(anomaly_map))
    if not peak > floor:
        return []
    half = floor + HALF * (peak - floor)
    level = half if level is None or not floor < level <= peak else level
    count, labels, stats, _ = cv2.connectedComponentsWithStats((anomaly_map >= level).astype(np.uint8), connectivity=8)
    boxes = []
    for index in range(1, count):
        left, top, width, height = (int(stats[index, part]) for part in range(4))
        values = anomaly_map[top:top + height, left:left + width]
        inside = labels[top:top + height, left:left + width] == index
        region_peak = float(values[inside].max())
        rows, columns = np.nonzero(inside & (values >= min(region_peak, floor + HALF * (region_peak - floor))))
        boxes.append(Box(left + int(columns.min()), top + int(rows.min()), int(np.ptp(columns)) + 1,
                         int(np.ptp(rows)) + 1, len(rows), region_peak))
    boxes.sort(key=lambda box: (-box.peak, -box.area, box.y, box.x))
    smallest = SMALLEST_SHARE * anomaly_map.size
    return [box for place, box in enumerate(boxes) if place == 0 or box.area >= smallest][:most]
