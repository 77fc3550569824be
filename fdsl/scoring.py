"""From pixels to finite score maps and image scores, for test.py, predict.py, the page, the Python interface
and the benchmarks.

Only here are batches halved where memory is short, and maps refused that are not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.photographs import views_of
from models.detector import Detector
from models.features import TOP1_SHARE, OfBranches, ScoreMaps, join_score_maps
from models.matching.candidates import Matching
from utils.config import PAPER_SIDE, WindowConfig
from utils.errors import ModelError
from utils.memory import Halving, sparing
from utils.views import Views

BATCH_VALUES = 2**24  # map values upsampled at once


class NotFinite(ModelError):
    """A map that is not finite. `name`: the image's. `narrow`: the precision was narrower than float32, so
    float32 may help."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__(name, dtype)  # processes send it to each other
        self.name, self.precision = name, str(dtype).removeprefix("torch.")
        self.narrow = dtype != torch.float32

    def __str__(self) -> str:
        cure = (
            "make the detector with --precision fp32" if self.narrow else "check the photograph and the heads"
        )
        return f"{self.name}: its anomaly map is not finite in {self.precision}; {cure}."


class Scorer:
    """Calls a detector with as many images at once as memory holds; gives finite NumPy arrays."""

    def __init__(self, detector: Detector, like: Scorer | None = None) -> None:
        """`like`: a scorer on the same device, whose measured batch size is shared."""
        self.detector = detector
        if like is None:
            self._maps = Halving(_score_maps, join_score_maps, detector.spare)
            self._scales = Halving(_scale_maps, np.concatenate, detector.spare)
        else:
            self._maps, self._scales = like._maps, like._scales

    def to_batch(self, photographs: Iterable[Image.Image]) -> Views:
        """The input of the detector from RGB photographs."""
        side, layout = self.detector.image_size, self.detector.layout
        return Views.joined([views_of(photo, side, layout) for photo in photographs])

    def fit(self, references: Views, inside: OfBranches | None = None) -> None:
        """Fits the detector to its references, of which the patches `inside` count; ConfigError where memory
        does not hold a single one."""
        sparing(lambda: self.detector.fit(references, inside), self.detector.spare)

    def without(self, reference: int, references: int) -> Scorer:
        """A scorer of the detector without one of its `references` (two or more); ConfigError where memory
        does not hold the rest of its bank too."""
        other = sparing(lambda: self.detector.without(reference, references), self.detector.spare)
        return Scorer(other, self)

    def __call__(self, views: Views, names: Sequence[str], match: Matching | None = None) -> ScoreMaps:
        """Score maps of photographs as float32 arrays; NotFinite with one of their `names`."""
        return self.begin(views, names, match)()

    def begin(
        self, views: Views, names: Sequence[str], match: Matching | None = None
    ) -> Callable[[], ScoreMaps]:
        """A function that returns the score maps of a call. A GPU computes them while the caller does
        something else; on a CPU they are computed already."""
        pending = self._maps(views, self.detector, match)

        def arrived() -> ScoreMaps:
            maps = pending.each(lambda part: part.cpu().numpy())
            self._refuse_not_finite(maps.arrays, names)
            return maps

        return arrived

    def scale_maps(self, views: Views, names: Sequence[str], match: Matching | None = None) -> np.ndarray:
        """The maps (B,S,G,G) of the method's S scales, before they are merged; NotFinite as above."""
        maps = self._scales(views, self.detector, match)
        self._refuse_not_finite([maps], names)
        return maps

    def _refuse_not_finite(self, arrays: Sequence[np.ndarray], names: Sequence[str]) -> None:
        for index, name in enumerate(names):
            if not all(np.isfinite(part[index]).all() for part in arrays):
                raise NotFinite(name, self.detector.backbone.dtype)


def _score_maps(views: Views, detector: Detector, match: Matching | None) -> ScoreMaps:
    return detector(views, match).each(Tensor.float)


def _scale_maps(views: Views, detector: Detector, match: Matching | None) -> np.ndarray:
    return detector.scale_maps(views, match).transpose(0, 1).float().cpu().numpy()


def upsample_maps(maps: np.ndarray, side: int | tuple[int, int]) -> np.ndarray:
    """Maps (n,G,G) float32 as (n,H,W) float32, bilinear with corners aligned; `side` is H = W or (H, W)."""
    size = (side, side) if isinstance(side, int) else side
    return F.interpolate(torch.from_numpy(maps)[:, None], size=size, mode="bilinear", align_corners=True)[
        :, 0
    ].numpy()


def map_batches(count: int, side: int) -> Iterator[slice]:
    """Slices of `count` maps, few enough to be upsampled at once to (side, side)."""
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
        [
            upsample_maps(maps[part], PAPER_SIDE).max(axis=(1, 2))
            for part in map_batches(len(maps), PAPER_SIDE)
        ]
    )
    peak = peak.astype(np.float64)
    spread = peak.max() - peak.min()
    return 0.5 * (raw + (peak - peak.min()) / spread if spread > 0 else raw)


def fused_scores(found: ScoreMaps, windows: WindowConfig, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Score maps of B images -> maps (B,G,G) float32 of both branches, and their image scores (B,)."""
    maps, raw_scores = found.fused(windows)
    return maps, image_scores(maps, raw_scores, kind)
