"""The metrics of one category, from its anomaly maps and raw scores. Independent of the method: only maps,
masks and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.masks import SaturatingRegion
from fdsl.metrics.exact import ALL_METRICS, LOW_LIMIT, PRO_LIMIT, PixelMetrics, SaturatedPro, image_metrics
from fdsl.metrics.overlap import Overlap
from fdsl.scoring import image_scores, map_batches, upsample_maps

DEVIATIONS = 3.0
ReadMask = Callable[[int, int | str], np.ndarray | None]


@dataclass(frozen=True)
class CategoryEvaluation:
    """One category's ALL_METRICS (None where not defined), image scores (n,), the two F1-max thresholds, and
    the distributions of pixel scores (None with pixels of only one kind)."""

    metrics: dict[str, float | None]
    scores: np.ndarray
    map_threshold: float | None
    score_threshold: float | None
    overlap: Overlap | None = None


@dataclass(frozen=True)
class Saturation:
    """Regions with a saturation: the kind of each image's defect, and image i's regions at a side, as of
    `read_mask`."""

    kinds: Sequence[str]
    read_regions: Callable[[int, int | str], list[SaturatingRegion]]


def evaluate_category(
    maps: np.ndarray,
    raw_scores: np.ndarray,
    labels: np.ndarray,
    read_mask: ReadMask,
    image_score: str,
    metric_side: int | str,
    saturation: Saturation | None = None,
    pixel_threshold: float | None = None,
) -> CategoryEvaluation:
    """Metrics of fused maps (n,G,G), raw scores (n,) and labels (n,) bool.

    `read_mask(i, metric_side)` gives image i's mask (H,W) bool at that side (`full`: its own), or None for a
    missing mask; such images take no part in the pixel metrics. Without a `saturation` there is no saturated
    PRO, without a `pixel_threshold` no SegF1.
    """
    scores = image_scores(maps, raw_scores, image_score)
    pixels, by_kind = PixelMetrics(), dict[str, SaturatedPro]()
    if saturation is not None:
        by_kind = {kind: SaturatedPro() for kind, defect in zip(saturation.kinds, labels) if defect}
    for index, single, mask in _with_masks(maps, read_mask, metric_side):
        pixels.update(single, mask)
        for kind, of_kind in by_kind.items():
            if saturation is not None and labels[index] and saturation.kinds[index] == kind:
                of_kind.update(single, saturation.read_regions(index, metric_side))
            elif not labels[index]:
                of_kind.update(single)
    metrics = {**pixels.compute(), **image_metrics(scores, labels), **_saturated(by_kind.values())}
    metrics["segf1"] = None if pixel_threshold is None else pixels.f1_at(pixel_threshold)
    return CategoryEvaluation(
        {name: metrics[name] for name in ALL_METRICS},
        scores,
        metrics["f1_threshold_px"],
        metrics["f1_threshold_sp"],
        pixels.overlap(),
    )


def threshold_of(maps: Iterable[np.ndarray]) -> float:
    """The threshold that MVTec AD 2's authors propose: DEVIATIONS above the mean of all values of validation
    images' maps."""
    values = np.concatenate([single.ravel() for single in maps]).astype(np.float64)
    return float(values.mean() + DEVIATIONS * values.std())


def _saturated(kinds: Iterable[SaturatedPro]) -> dict[str, float | None]:
    """Saturated PRO, the mean over the kinds of defects, each with all normal images, as MVTec LOCO's authors
    compute it for logical and structural anomalies."""
    means = {}
    for name, limit in (("auspro", PRO_LIMIT), ("auspro_05", LOW_LIMIT)):
        values = [value for kind in kinds if (value := kind.pro(limit)) is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _with_masks(
    maps: np.ndarray, read_mask: ReadMask, side: int | str
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(index, map, mask) of the images that have a mask, at one side or each at its mask's own."""
    if isinstance(side, str):
        for index, single in enumerate(maps):
            if (mask := read_mask(index, side)) is not None:
                yield index, upsample_maps(single[None], mask.shape)[0], mask
        return
    for part in map_batches(len(maps), side):
        masks = {index: read_mask(index, side) for index in range(part.start, part.stop)}
        present = {index: mask for index, mask in masks.items() if mask is not None}
        if present:
            yield from zip(present, upsample_maps(maps[list(present)], side), present.values())
