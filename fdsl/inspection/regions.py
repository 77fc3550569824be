"""Regions of anomaly maps that reach the pixel threshold, as scikit-image measures them, and boxes of hot
regions, by OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from utils.hot_regions import Box, Summit, boxes_of, is_reached, pixel_threshold_of

TOLERANCE = 0.5  # pixels that an outline may leave the region's border by,
FINEST = 1000  # or this part of the region's longer side
DECIMALS = 2  # of places and lengths in pixels
POINTS_OF_AN_AREA = 3


@dataclass(frozen=True)
class Region:
    """An 8-connected region of pixels that reach the pixel threshold, in the photograph's own pixels.

    x, y, width, height: its bounding box. area: its number of pixels. centroid: (x, y) in the coordinates of
    the outline. major_axis, minor_axis: lengths of the axes of the ellipse with the same second moments.
    orientation: degrees of the major axis, counter-clockwise from the horizontal, in [0,180). peak, mean: its
    highest and its mean map value. outline: the points (x, y) of its outer border, (0, 0) being the corner of
    the photograph; holes are not cut out.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    centroid: tuple[float, float]
    major_axis: float
    minor_axis: float
    orientation: float
    peak: float
    mean: float
    outline: tuple[tuple[float, float], ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As scores.jsonl holds it."""
        outline = [list(point) for point in self.outline]
        return vars(self) | {"centroid": list(self.centroid), "outline": outline}


def regions_of(anomaly_map: np.ndarray, threshold: float | None, min_area: int = 1) -> list[Region]:
    """The regions of an anomalous photograph's map (H,W) with its detector's pixel threshold; of a map that
    nowhere reaches it that of the maximum alone."""
    limit = pixel_threshold_of(anomaly_map, threshold)
    if limit is None:
        return []
    if is_reached(anomaly_map, threshold):
        return find_regions(anomaly_map, limit, min_area)
    return [region for region in find_regions(anomaly_map, limit)[:1] if region.area >= min_area]


def mask_of(anomaly_map: np.ndarray, threshold: float | None, min_area: int = 1) -> np.ndarray:
    """(H,W) bool: the pixels of `regions_of`."""
    limit = pixel_threshold_of(anomaly_map, threshold)
    if limit is None or is_reached(anomaly_map, threshold):
        return region_mask(anomaly_map, limit, min_area)
    from skimage.measure import label

    labels = label(anomaly_map >= limit, connectivity=2)
    own = labels == labels.flat[anomaly_map.argmax()]
    return own if own.sum() >= min_area else np.zeros_like(own)


def find_regions(anomaly_map: np.ndarray, threshold: float, min_area: int = 1) -> list[Region]:
    """The regions of a map (H,W) from `threshold` on that have at least `min_area` pixels, that of the
    highest value first (skimage.measure.regionprops)."""
    from skimage.measure import label, regionprops  # 0.8 s, which normal images need not wait for

    labels = label(anomaly_map >= threshold, connectivity=2)
    found = [_region(one, anomaly_map) for one in regionprops(labels, anomaly_map) if one.area >= min_area]
    return sorted(found, key=lambda region: (-region.peak, region.y, region.x))


def region_mask(anomaly_map: np.ndarray, threshold: float | None, min_area: int = 1) -> np.ndarray:
    """(H,W) bool: the pixels of these regions; of no threshold none."""
    if threshold is None:
        return np.zeros(anomaly_map.shape, bool)
    mask = anomaly_map >= threshold
    if min_area <= 1:
        return mask
    from skimage.measure import label

    labels, count = label(mask, connectivity=2, return_num=True)
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= min_area
    kept[0] = False
    return kept[labels]


def _region(one: Any, anomaly_map: np.ndarray) -> Region:
    top, left, bottom, right = (int(edge) for edge in one.bbox)
    row, column = one.centroid
    return Region(
        left,
        top,
        right - left,
        bottom - top,
        int(one.area),
        (_rounded(column + 0.5), _rounded(row + 0.5)),
        _rounded(one.axis_major_length),
        _rounded(one.axis_minor_length),
        _rounded((math.degrees(one.orientation) + 90) % 180) % 180,
        float(one.intensity_max),
        float(anomaly_map[one.slice][one.image].mean(dtype=np.float64)),
        _outline(one.image, left, top),
    )


def _outline(mask: np.ndarray, left: int, top: int) -> tuple[tuple[float, float], ...]:
    """The outer border of a region (h,w) bool whose box begins at (left, top)."""
    from skimage.measure import find_contours

    height, width = mask.shape
    rings = find_contours(np.pad(mask, 1).astype(np.float32), 0.5, fully_connected="high")
    tolerance = max(TOLERANCE, max(mask.shape) / FINEST)
    rings = [ring[:-1].astype(np.float32) for ring in rings]  # the last point is the first
    ring = max(rings, key=lambda ring: cv2.contourArea(ring))
    ring = cv2.approxPolyDP(ring, tolerance, closed=True)[:, 0]  # scikit-image's loads scipy.signal: 0.3 s
    if len(ring) < POINTS_OF_AN_AREA:
        ring = np.array([[0.5, 0.5], [0.5, width + 0.5], [height + 0.5, width + 0.5], [height + 0.5, 0.5]])
    return tuple((_rounded(x + left - 0.5), _rounded(y + top - 0.5)) for y, x in ring)


def _rounded(value: float) -> float:
    return round(float(value), DECIMALS)


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
