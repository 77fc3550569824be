"""From anomaly maps and raw scores of one category to its metrics. Knows no method, only maps, masks and
labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from fdsl.metrics.exact import METRIC_NAMES, PixelMetrics, image_metrics
from fdsl.metrics.overlap import Overlap
from models.features import TOP1_SHARE, ScoreMaps
from utils.config import WindowConfig

PAPER_SIDE = 240  # the published evaluation's map side, pixels
BATCH_VALUES = 2**24  # map values upsampled at once


@dataclass(frozen=True)
class CategoryEvaluation:
    """One category's seven metrics (None where not defined), image scores (n,), the two F1-max thresholds,
    and how pixel scores are distributed (None with pixels of one kind alone)."""

    metrics: dict[str, float | None]
    scores: np.ndarray
    map_threshold: float | None
    score_threshold: float | None
    overlap: Overlap | None = None


def upsample_maps(maps: np.ndarray, side: int | tuple[int, int]) -> np.ndarray:
    """(n,G,G) float32 -> (n,H,W) float32, bilinear with corners aligned; `side` is H = W or (H, W)."""
    size = (side, side) if isinstance(side, int) else side
    return F.interpolate(torch.from_numpy(maps)[:, None], size=size, mode="bilinear", align_corners=True)[
        :, 0
    ].numpy()


def _batches(count: int, side: int) -> Iterator[slice]:
    step = max(1, BATCH_VALUES // side**2)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def image_scores(maps: np.ndarray, raw_scores: np.ndarray, kind: str) -> np.ndarray:
    """The image score (n,) float64 of fused maps (n,G,G) and raw scores (n,).

    max: the detector's raw score. top1: mean of the highest 1 % of patch scores. paper: half the raw score
    and half the maximum of the 240 px map, min-max scaled over all images given (the category's whole test
    set).
    """
    raw = raw_scores.astype(np.float64)
    if kind == "max":
        return raw
    if kind == "top1":
        flat = np.sort(maps.reshape(len(maps), -1), axis=1)
        return flat[:, -max(1, round(TOP1_SHARE * flat.shape[1])) :].mean(axis=1, dtype=np.float64)
    peak = np.concatenate(
        [upsample_maps(maps[part], PAPER_SIDE).max(axis=(1, 2)) for part in _batches(len(maps), PAPER_SIDE)]
    )
    peak = peak.astype(np.float64)
    spread = peak.max() - peak.min()
    return 0.5 * (raw + (peak - peak.min()) / spread if spread > 0 else raw)


def fused_scores(found: ScoreMaps, windows: WindowConfig, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Score maps of B images -> maps (B,G,G) float32 of both branches, and their image scores (B,)."""
    maps, raw_scores = found.fused(windows)
    return maps, image_scores(maps, raw_scores, kind)


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
    found = {**pixels.compute(), **image_metrics(scores, labels)}
    return CategoryEvaluation(
        {name: found[name] for name in METRIC_NAMES},
        scores,
        found["f1_threshold_px"],
        found["f1_threshold_sp"],
        pixels.overlap(),
    )


def _pixels(
    maps: np.ndarray, read_mask: Callable[[int, int | str], np.ndarray | None], side: int | str
) -> PixelMetrics:
    """The maps beside their masks, as far as these are known, at one side or each at its mask's own."""
    pixels = PixelMetrics()
    if isinstance(side, str):
        for index, single in enumerate(maps):
            if (mask := read_mask(index, side)) is not None:
                pixels.update(upsample_maps(single[None], mask.shape)[0], mask)
        return pixels
    for part in _batches(len(maps), side):
        masks = {index: read_mask(index, side) for index in range(part.start, part.stop)}
        known = {index: mask for index, mask in masks.items() if mask is not None}
        if known:
            pixels.update(upsample_maps(maps[list(known)], side), np.stack(list(known.values())))
    return pixels
