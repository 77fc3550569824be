"""The uncertainty of a difference between two runs: a bootstrap of the published seven metrics over the test
images.

Each image is reduced to counts of its scores in bins, of normal and of defective pixels, so that a metric of
resampled images is one of weighted sums of counts. Normal and defective images are resampled separately, so
that every metric stays defined. Two runs with the same samples are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fdsl.metrics.exact import PRO_LIMIT
from fdsl.metrics.pixel_scores import region_areas
from fdsl.scoring import upsample_maps

RESAMPLED = 1000
PERCENTILES = (2.5, 97.5)
SAMPLE = 200_000  # pixels, about, for the edges of bins
# Quantiles of normal and of defective pixels that are edges: evenly spaced, and denser at the highest.
SHARES = np.unique(np.concatenate([np.linspace(0, 1, 129), 1 - np.logspace(-1, -5, 96)]))


@dataclass(frozen=True)
class Counts:
    """Counts (n,bins) of n images' scores in bins, the lowest first: normal ones, those of defects, and those
    of defects weighted by 1 / the area of their region (None for image scores)."""

    normal: np.ndarray
    defects: np.ndarray
    regions: np.ndarray | None = None

    def metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics (R,) of R samples, in which image i counts weights[r, i] times."""
        normal, defects = (_from_highest(weights @ part) for part in (self.normal, self.defects))
        hits, alarms = defects.cumsum(1), normal.cumsum(1)
        every, normals = hits[:, -1], alarms[:, -1]
        precision = hits / np.maximum(hits + alarms, 1)
        below = normals[:, None] - alarms + normal / 2
        of_images = {
            "auroc": (defects * below).sum(1) / (every * normals),
            "f1": (2 * hits / (hits + alarms + every[:, None])).max(1),
            "ap": (defects * precision).sum(1) / every,
        }
        if self.regions is None:
            return of_images
        overlap = _from_highest(weights @ self.regions).cumsum(1)
        return {**of_images, "pro": _area(alarms / normals[:, None], overlap / overlap[:, -1:])}


def _from_highest(counts: np.ndarray) -> np.ndarray:
    return counts[:, ::-1].astype(np.float64)


def _area(rate: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """The area (R,) under the curve from (0, 0) through (rate, overlap) (R,bins), up to PRO_LIMIT, divided by
    it."""
    before, height = (np.pad(part, ((0, 0), (1, 0)))[:, :-1] for part in (rate, overlap))
    end, start = np.minimum(rate, PRO_LIMIT), np.minimum(before, PRO_LIMIT)
    share = (end - start) / np.where(rate > before, rate - before, 1)
    middle = height + share * (overlap - height) / 2
    return ((end - start) * middle).sum(1) / PRO_LIMIT


def counts_of_images(scores: np.ndarray, labels: np.ndarray) -> Counts:
    """Image scores (n,) and labels (n,) bool: a bin for each score."""
    place = np.unique(scores, return_inverse=True)[1]
    one = np.zeros((len(scores), place.max() + 1), np.float32)
    one[np.arange(len(scores)), place] = 1
    return Counts(one * ~labels[:, None], one * labels[:, None])


def counts_of_pixels(maps: np.ndarray, masks: Sequence[np.ndarray]) -> Counts:
    """Maps (n,G,G) and their masks (H,W) bool: counts in bins that are finest where scores are high."""
    edges = _edges(maps, masks)
    rows: list[list[np.ndarray]] = [[], [], []]
    for scores, mask in _with_masks(maps, masks):
        place = np.searchsorted(edges, scores)
        inside = place[mask]
        weight = 1 / region_areas(mask) if mask.any() else None
        for row, values, mass in zip(rows, (place[~mask], inside, inside), (None, None, weight)):
            row.append(np.bincount(values, mass, len(edges) + 1).astype(np.float32))
    return Counts(*(np.stack(row) for row in rows))


def _edges(maps: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """The edges of bins, by SHARES of the normal and of the defective pixels."""
    step = max(1, sum(mask.size for mask in masks) // SAMPLE)
    normal, defects = [], []
    for scores, mask in _with_masks(maps, masks):
        normal.append(scores[~mask][::step])
        defects.append(scores[mask][:: max(1, step // 16)])
    kinds = [values for values in (np.concatenate(normal), np.concatenate(defects)) if values.size]
    return np.unique(np.concatenate([np.quantile(values, SHARES) for values in kinds]).astype(np.float32))


def _with_masks(maps: np.ndarray, masks: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each map at its mask's size, with the mask."""
    for single, mask in zip(maps, masks):
        yield upsample_maps(single[None], mask.shape)[0], mask


def bootstrap_weights(labels: np.ndarray, seed: int, samples: int = RESAMPLED) -> np.ndarray:
    """(samples,n) float32: how often each image (n,) is in each sample. A sample has as many normal and as
    many defective images as there are."""
    generator = np.random.default_rng(seed)
    weights = np.zeros((samples, len(labels)), np.float32)
    for kind in (False, True):
        own = np.flatnonzero(labels == kind)
        if own.size:
            weights[:, own] = generator.multinomial(own.size, np.full(own.size, 1 / own.size), samples)
    return weights


def interval(deviations: np.ndarray) -> tuple[float, float]:
    """The interval that holds 95 % of the resampled values (R,)."""
    low, high = np.percentile(deviations, PERCENTILES)
    return float(low), float(high)
