"""What the detector says of one photograph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fdsl.boxes import Box, find_boxes
from fdsl.report.drawing import upsample
from models.features import ScoreMaps


@dataclass(frozen=True)
class Prediction:
    """What the detector says of one photograph.

    score: higher is more anomalous. threshold: the score from which on it is called anomalous, or None. size:
    (width, height) of the photograph in pixels. maps: the whole image's and the windows' maps and raw scores.
    patch_map (G,G) float32 in [0,1]: their fusion, on the patch grid. map_threshold: the map value from which
    on a patch is boxed, or None. normal_percentile: so many of a hundred normal images would score less;
    None where nothing says it. reason: why it cannot be judged normal whatever its score
    (utils/image_statistics.py); "" where it can.
    """

    score: float
    threshold: float | None
    size: tuple[int, int]
    maps: ScoreMaps
    patch_map: np.ndarray
    map_threshold: float | None = None
    normal_percentile: float | None = None
    reason: str = ""

    @property
    def base_map(self) -> np.ndarray:
        """(G,G) float32: the whole image's map."""
        return self.maps.base

    @property
    def window_map(self) -> np.ndarray | None:
        """(G,G) float32: the local windows' map; None without LFE."""
        return self.maps.window

    @property
    def base_score(self) -> float:
        """The raw score of the whole image's map."""
        return float(self.maps.base_score)

    @property
    def window_score(self) -> float | None:
        """The raw score of the local windows' map; None without LFE."""
        return None if self.maps.window_score is None else float(self.maps.window_score)

    @property
    def is_anomalous(self) -> bool | None:
        """Whether the score reaches the threshold, or there is a `reason`; None where there is neither reason
        nor threshold."""
        if self.reason:
            return True
        return None if self.threshold is None else self.score >= self.threshold

    @cached_property
    def anomaly_map(self) -> np.ndarray:
        """(H,W) float32 in [0,1] at the photograph's own size: the patch map, bilinear, corners aligned."""
        return upsample(self.patch_map, self.size[1], self.size[0])

    @cached_property
    def boxes(self) -> list[Box]:
        """The hot regions in the photograph's own pixels, the hottest first; none where it is not anomalous,
        or shows no part that could have some."""
        return (
            []
            if self.is_anomalous is False or self.reason
            else find_boxes(self.anomaly_map, self.map_threshold)
        )
