"""What pictures and report show of one category."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from fdsl.metrics.overlap import Overlap
from utils.numbers import digits_of

THUMB_FOLDER = "thumbnails"


@dataclass(kw_only=True)
class CategoryView:
    """All that pictures and report show of one category; photos and masks are read one at a time.

    labels (n,) bool, scores (n,) float64 (the image score of the table), maps (n,G,G) float32 in [0,1];
    `metrics` has the names of metrics.json, as fractions or None. `read_photo(i)` gives (H,W,3) uint8
    RGB, `read_mask(i)` (H,W) bool or None, `reference_photo(j)` the photo of `references[j]`. The thresholds
    are those of F1-max. `overlaps`: what stands over each picture of pixel scores -> their distributions.

    Once its pictures are written: `scale`: the map values (low, high) between which heat maps grow opaque.
    `files[i]` is the name of image i's pictures without ending: `folder/FILE.jpg` is its strip (where
    `has_strip[i]`), `folder/thumbnails/FILE.webp` its thumbnail: four panels next to each other, each of
    aspect `panel_sizes[i]` (h, w). `problems`: a line for each photo or mask that could not be read.
    """

    name: str
    image_paths: list[str]
    defects: list[str]
    labels: np.ndarray
    scores: np.ndarray
    maps: np.ndarray
    metrics: dict[str, float | None]
    map_threshold: float | None
    score_threshold: float | None
    references: list[str]
    read_photo: Callable[[int], np.ndarray]
    read_mask: Callable[[int], np.ndarray | None]
    reference_photo: Callable[[int], np.ndarray]
    overlaps: dict[str, Overlap] = field(default_factory=dict)
    folder: Path = Path()
    scale: tuple[float, float] = (0.0, 1.0)
    files: list[str] = field(default_factory=list)
    panel_sizes: list[tuple[int, int]] = field(default_factory=list)
    has_strip: list[bool] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @cached_property
    def digits(self) -> int:
        """How many significant digits are shown of its scores."""
        return digits_of([*self.scores, self.score_threshold])

    @property
    def reference_files(self) -> list[str]:
        """As `files`, of the references."""
        return [f"reference-{index}" for index in range(len(self.references))]

    def thumbnail(self, file: str) -> Path:
        """Where the thumbnail of an image or reference lies."""
        return self.folder / THUMB_FOLDER / f"{file}.webp"
