"""AUROC, F1-max, AP and PRO, exact: of a category's pixels in one pass over its maps, and of its image
scores.

All of them follow from one list: for each distinct anomalous score, the anomalous mass and the normal pixels
at or above it. Between two anomalous scores only false alarms grow, and the curves run flat; where normal
pixels share an anomalous score they rise along a straight line. So normal pixels need only a sort, and no
threshold is left out.

AUROC and AP are scikit-learn's; F1-max is the maximum of 2PR/(P+R) over all thresholds. PRO is the overlap
with each 8-connected region, averaged over all regions of the category, against the false positive rate over
all normal pixels, integrated to 0.3 and divided by 0.3 (Bergmann et al., The MVTec Anomaly Detection Dataset,
IJCV 2021); to 0.05 as the AU-PRO of MVTec AD 2 (Heckler-Kram et al., 2025). Saturated PRO counts a region as
whole once a part of it is found (Bergmann et al., Beyond Dents and Scratches, IJCV 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data.masks import SaturatingRegion
from fdsl.metrics.overlap import Overlap
from fdsl.metrics.pixel_scores import MEMORY_PIXELS, PixelScores, Population

METRIC_NAMES = ("auroc_px", "f1_px", "ap_px", "aupro", "auroc_sp", "f1_sp", "ap_sp")  # the published table's
MORE_METRICS = ("aupro_05", "segf1", "auspro", "auspro_05")
ALL_METRICS = (*METRIC_NAMES, *MORE_METRICS)
PRO_LIMIT, LOW_LIMIT = 0.3, 0.05  # false positive rates up to which PRO is integrated


class PixelMetrics:
    """Pixel AUROC, F1-max, AP and PRO of one category, fed image by image.

    Exact up to `memory_pixels` float32 scores (an anomalous pixel counts as four, float64 doubles the count);
    beyond, the scores are kept by rank (fdsl/metrics/pixel_scores.py), which gives all four within 1e-4 in
    bounded memory.
    """

    def __init__(self, memory_pixels: int = MEMORY_PIXELS) -> None:
        self._pixels = PixelScores(memory_pixels)

    def update(self, scores: np.ndarray, mask: np.ndarray) -> None:
        """Add one image: a map (H,W) of finite scores and its mask (H,W) bool. Sizes may differ between
        images."""
        self._pixels.add(scores, mask)

    def compute(self) -> dict[str, float | None]:
        """auroc_px, f1_px, ap_px, aupro, aupro_05 in 0..1 and f1_threshold_px (a pixel is predicted anomalous
        at or above it).

        All None where they are not defined: no anomalous or no normal pixel, no mask at all. More updates may
        follow.
        """
        names = ("auroc_px", "f1_px", "ap_px", "aupro", "aupro_05", "f1_threshold_px")
        curves = self._curves()
        if curves is None:
            return dict.fromkeys(names)
        by_pixel, by_region = curves
        f1, threshold = _f1_max(by_pixel)
        pros = _pro(by_region), _pro(by_region, LOW_LIMIT)
        return dict(zip(names, (_auroc(by_pixel), f1, _average_precision(by_pixel), *pros, threshold)))

    def f1_at(self, threshold: float) -> float | None:
        """F1 of pixels that are predicted anomalous at or above a threshold, as the SegF1 of MVTec AD 2; None
        where it is not defined."""
        curves = self._curves()
        if curves is None:
            return None
        normal, anomalous, _ = self._pixels.populations()
        hits, alarms = (_at_or_above(part, threshold) for part in (anomalous, normal))
        return float(2 * hits / (hits + alarms + curves[0].hits[0]))

    def overlap(self) -> Overlap | None:
        """The distributions of normal and of anomalous pixels; None where there is only one of them."""
        if self._pixels.normal_count == 0 or self._pixels.anomalous_count == 0:
            return None
        normal, anomalous, _ = self._pixels.populations()
        return Overlap.of(normal, anomalous)

    def _curves(self) -> tuple[Curve, Curve] | None:
        pixels = self._pixels
        if pixels.normal_count == 0 or pixels.anomalous_count == 0:
            return None
        normal, anomalous, regions = pixels.populations()
        by_pixel = _curve(anomalous, normal)
        if (
            regions.mass is not None and regions.scores is anomalous.scores
        ):  # the same thresholds, weighted anew
            hits = _mass_from(regions.mass)[np.flatnonzero(_first_of_equal(regions.scores))]
            return by_pixel, by_pixel._replace(hits=hits)
        return by_pixel, _curve(regions, normal)


class SaturatedPro:
    """Saturated PRO of one kind of defect and of normal images, fed image by image; as exact as
    PixelMetrics."""

    def __init__(self, memory_pixels: int = MEMORY_PIXELS) -> None:
        self._pixels = PixelScores(memory_pixels)

    def update(self, scores: np.ndarray, regions: Sequence[SaturatingRegion] = ()) -> None:
        """Add one map (H,W) with its regions, whose masks may overlap; none for a normal image."""
        self._pixels.add_regions(scores, regions)

    def pro(self, limit: float) -> float | None:
        """The area up to a false positive rate, 0 < limit < 1, divided by it: at a threshold each region
        counts min(its pixels that are found / its saturation, 1). None without regions or normal pixels."""
        pixels = self._pixels
        if pixels.normal_count == 0 or pixels.anomalous_count == 0:
            return None
        normal, _, regions = pixels.populations()
        return _pro(_curve(regions, normal), limit)


def image_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """auroc_sp, f1_sp, ap_sp in 0..1 and f1_threshold_sp (an image is predicted anomalous at or above it).

    Finite scores (n,) and labels (n,) bool. All None where only one of the two kinds is there.
    """
    names = ("auroc_sp", "f1_sp", "ap_sp", "f1_threshold_sp")
    if labels.all() or not labels.any():
        return dict.fromkeys(names)
    curve = _curve(Population(np.sort(scores[labels]), None), Population(np.sort(scores[~labels]), None))
    f1, threshold = _f1_max(curve)
    return dict(zip(names, (_auroc(curve), f1, _average_precision(curve), threshold)))


def mean_metrics(categories: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean over categories of each of ALL_METRICS, without the undefined (None or missing); None if all
    are."""
    means: dict[str, float | None] = {}
    for name in ALL_METRICS:
        found = (metrics.get(name) for metrics in categories.values())
        values = [value for value in found if value is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


class Curve(NamedTuple):
    """At each distinct anomalous score, ascending: anomalous mass at or above it (`hits`), normal pixels
    above it (`alarms_above`) and at or above it (`alarms`); `normals` is the count of all normal pixels."""

    threshold: np.ndarray
    hits: np.ndarray
    alarms_above: np.ndarray
    alarms: np.ndarray
    normals: int


def _curve(anomalous: Population, normal: Population) -> Curve:
    """Both populations must hold at least one score."""
    scores, mass = anomalous
    starts = np.flatnonzero(_first_of_equal(scores))
    threshold = scores[starts]
    hits = scores.size - starts if mass is None else _mass_from(mass)[starts]
    lower = np.searchsorted(normal.scores, threshold)
    upper = lower.copy()
    tied = np.flatnonzero(normal.scores[np.minimum(lower, normal.scores.size - 1)] == threshold)
    upper[tied] = np.searchsorted(normal.scores, threshold[tied], side="right")
    if normal.mass is None:
        return Curve(
            threshold, hits, normal.scores.size - upper, normal.scores.size - lower, normal.scores.size
        )
    alarms = np.append(_mass_from(normal.mass), 0)
    return Curve(threshold, hits, alarms[upper], alarms[lower], int(alarms[0]))


def _at_or_above(population: Population, threshold: float) -> float:
    """The mass of the scores that reach a threshold."""
    first = int(np.searchsorted(population.scores, population.scores.dtype.type(threshold)))
    mass = population.mass
    return float(population.scores.size - first if mass is None else mass[first:].sum())


def sum_of_products(first: np.ndarray, second: np.ndarray) -> float:
    """Of two arrays (n,), the same to the last bit in any number of threads, which `np.dot` is not."""
    return float((first * second).sum())


def _auroc(curve: Curve) -> float:
    gains = -np.diff(curve.hits, append=0)
    area = sum_of_products(gains.astype(np.float64), (curve.alarms_above + curve.alarms) / 2)
    return float(1 - area / (float(curve.hits[0]) * curve.normals))


def _average_precision(curve: Curve) -> float:
    gains = -np.diff(curve.hits, append=0)
    precision = curve.hits / (curve.hits + curve.alarms)
    return sum_of_products(gains.astype(np.float64), precision) / float(curve.hits[0])


def _f1_max(curve: Curve) -> tuple[float, float]:
    """The maximum, and the lowest threshold that reaches it; a threshold between anomalous scores only adds
    alarms."""
    f1 = 2 * curve.hits / (curve.hits + curve.alarms + curve.hits[0])
    best = int(np.argmax(f1))
    return float(f1[best]), float(curve.threshold[best])


def _pro(curve: Curve, limit: float = PRO_LIMIT) -> float:
    """The area under the joined points from FPR 0 to the limit, interpolated there, divided by the limit."""
    fpr, overlap = _polyline(curve)
    inside = int(np.searchsorted(fpr, limit, side="right"))
    left, right = inside - 1, inside
    share = (limit - fpr[left]) / (fpr[right] - fpr[left])
    at_limit = overlap[left] + share * (overlap[right] - overlap[left])
    x, y = np.append(fpr[:inside], limit), np.append(overlap[:inside], at_limit)
    return sum_of_products(np.diff(x), y[1:] + y[:-1]) / 2 / limit


def _polyline(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate from (0, 0) to (1, 1): for each threshold a flat piece, then the rise at
    it."""
    steps = curve.hits.size
    fpr, tpr = np.zeros(2 * steps + 2), np.zeros(2 * steps + 2)
    fpr[1:-1:2], fpr[2:-1:2] = curve.alarms_above[::-1], curve.alarms[::-1]
    tpr[2:-1:2] = curve.hits[::-1]
    tpr[3:-1:2] = curve.hits[:0:-1]
    fpr, tpr = fpr / curve.normals, tpr / curve.hits[0]
    fpr[-1] = tpr[-1] = 1.0
    return fpr, tpr


def _first_of_equal(ascending: np.ndarray) -> np.ndarray:
    return np.append(True, ascending[1:] != ascending[:-1])


def _mass_from(mass: np.ndarray) -> np.ndarray:
    """Mass of each entry and all after it."""
    return np.cumsum(mass[::-1])[::-1]
