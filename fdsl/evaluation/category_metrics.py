"""From anomaly maps and raw scores of one category to its metrics. Independent of the method: only maps,
masks and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fdsl.metrics.exact import METRIC_NAMES, PixelMetrics, image_metrics
from fdsl.metrics.overlap import Overlap
from fdsl.scoring import image_scores, map_batches, upsample_maps


@dataclass(frozen=True)
class CategoryEvaluation:
    """One category's seven metrics (None where not defined), image scores (n,), the two F1-max thresholds,
    and how pixel scores are distributed (None with pixels of one kind alone)."""

    metrics: dict[str, float | None]
    scores: np.ndarray
    map_threshold: float | None
    score_threshold: float | None
    overlap: Overlap | None = None


def evaluate_category(
    maps: np.ndarray,
    raw_scores: np.ndarray,
    labels: np.ndarray,
    read_mask: Callable[[int, int | str], np.ndarray | None],
    image_score: str,
    metric_side: int | str,
) -> CategoryEvaluation:
    """Metrics of fused maps (n,G,G), raw scores (n,) and labels (n,) bool.

    `read_mask(i, metric_side)` gives image i's mask (H,W) bool at the side asked for (`full`: its own), or
    None where no mask is known; such images take no part in the pixel metrics.
    """
    scores = image_scores(maps, raw_scores, image_score)
    pixels = _pixels(maps, read_mask, metric_side)
    metrics = {**pixels.compute(), **image_metrics(scores, labels)}
    return CategoryEvaluation(
        {name: metrics[name] for name in METRIC_NAMES},
        scores,
        metrics["f1_threshold_px"],
        metrics["f1_threshold_sp"],
        pixels.overlap(),
    )


def _pixels(
    maps: np.ndarray, read_mask: Callable[[int, int | str], np.ndarray | None], side: int | str
) -> PixelMetrics:
    """The maps with their masks, as far as these are known, at one side or each at its mask's own."""
    pixels = PixelMetrics()
    if isinstance(side, str):
        for index, single in enumerate(maps):
            if (mask := read_mask(index, side)) is not None:
                pixels.update(upsample_maps(single[None], mask.shape)[0], mask)
        return pixels
    for part in map_batches(len(maps), side):
        masks = {index: read_mask(index, side) for index in range(part.start, part.stop)}
        there = {index: mask for index, mask in masks.items() if mask is not None}
        if there:
            pixels.update(upsample_maps(maps[list(there)], side), np.stack(list(there.values())))
    return pixels
