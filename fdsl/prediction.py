"""The results of photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.photographs import as_photograph
from fdsl.config.run_config import Threshold
from fdsl.inspection.regions import Region, find_boxes, mask_of, region_mask, regions_of
from fdsl.report import drawing
from fdsl.thresholds.decision import require_rate
from fdsl.thresholds.threshold import batch_threshold
from models.features import ScoreMaps
from utils.errors import ConfigError
from utils.files import whole_file
from utils.hot_regions import Box, pixel_threshold_of, upsample
from utils.numbers import digits_of, is_finite
from utils.score_rows import row_of
from utils.text import one_line, printable

PICTURES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
QUALITY = 88  # of JPEG and WebP


@dataclass(frozen=True, repr=False)
class Prediction:
    """The result of one photograph.

    score: higher is more anomalous. threshold: the score from which on it is called anomalous, or None. size:
    (width, height) of the photograph in pixels. maps: the whole image's and the windows' maps and raw scores.
    patch_map (G,G) float32 in [0,1]: their fusion, on the patch grid. map_threshold: the detector's pixel
    threshold, or None. normal_percentile: so many of a hundred normal images would score less; None where
    it is not known. reason: why it cannot be judged normal whatever its score (utils/image_statistics.py); ""
    where it can. heat_scale: the map values from which on pictures show heat, and show it opaque. min_area:
    regions of fewer pixels are left out. statistics: those of the resized image, as utils/image_statistics.py
    gives them; None where it is not known. path: the photograph's file, None where it came from memory;
    opens: opens that file as the detector did.
    """

    score: float
    threshold: float | None
    size: tuple[int, int]
    maps: ScoreMaps
    patch_map: np.ndarray
    map_threshold: float | None = None
    normal_percentile: float | None = None
    reason: str = ""
    heat_scale: tuple[float, float] = (0.0, 1.0)
    min_area: int = 1
    statistics: np.ndarray | None = field(default=None, compare=False)
    path: Path | None = None
    opens: Callable[[], Image.Image] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        where = "from memory" if self.path is None else f"in {printable(self.path)}"
        score, *threshold = self._shown()
        limit = "".join(threshold) or "no threshold"
        return (
            f"Prediction of a photograph {where}, {self.size[0]} x {self.size[1]} px:\n"
            f"  {self.verdict or 'no decision'}, {score}, {limit}, "
            f"highest map value {self.patch_map.max():.4g}"
        )

    def _shown(self) -> list[str]:
        """Its score, and the threshold where there is one, in digits that tell them apart."""
        named = {"score": self.score, "threshold": self.threshold}
        digits = digits_of(named.values())
        return [f"{name} {value:.{digits}g}" for name, value in named.items() if value is not None]

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

    @property
    def verdict(self) -> str:
        """`normal`, `anomalous` with its reason, or "" where nothing is decided."""
        if self.reason:
            return f"anomalous: {self.reason}"
        return {None: "", False: "normal", True: "anomalous"}[self.is_anomalous]

    @cached_property
    def anomaly_map(self) -> np.ndarray:
        """(H,W) float32 in [0,1] at the photograph's own size: the patch map, bilinear, corners aligned."""
        return upsample(self.patch_map, self.size[1], self.size[0])

    @property
    def _shows_where(self) -> bool:
        """Not where it is normal, or shows no part that could have a defect."""
        return self.is_anomalous is not False and not self.reason

    @cached_property
    def boxes(self) -> list[Box]:
        """The hot regions in the photograph's own pixels, the hottest first; none where it is not anomalous,
        or shows no part that could have some."""
        return find_boxes(self.anomaly_map, self.map_threshold) if self._shows_where else []

    @cached_property
    def pixel_threshold(self) -> float | None:
        """The map value from which on pixels are its defect (`regions`); None where it has none."""
        return pixel_threshold_of(self.anomaly_map, self.map_threshold) if self._shows_where else None

    @cached_property
    def regions(self) -> list[Region]:
        """The regions of pixels that reach the pixel threshold, that of the highest value first; none where
        it is not anomalous, or shows no part that could have some."""
        return regions_of(self.anomaly_map, self.map_threshold, self.min_area) if self._shows_where else []

    def mask(self, threshold: float | None = None) -> np.ndarray:
        """(H,W) bool at the photograph's own size: the pixels of its `regions`; with a `threshold` those
        whose map value reaches it, whatever was decided. ConfigError for what is no finite number."""
        if threshold is None:
            if self._shows_where:
                return mask_of(self.anomaly_map, self.map_threshold, self.min_area)
            return region_mask(self.anomaly_map, None)
        if not is_finite(threshold):
            raise ConfigError(f"threshold is {one_line(repr(threshold), 40)}, which is no finite number.")
        return region_mask(self.anomaly_map, threshold, self.min_area)

    def plot(self, photo: Any = None) -> Image.Image:
        """A picture to look at: photograph | heat map with the contour of its regions, and a caption.

        `photo`: the photograph, needed where it came from memory; any that `predict` takes. ConfigError
        without it, or for one of another size; DataError for what is no photograph.
        """
        return Image.fromarray(self.picture(self._photograph(photo)))

    def picture(self, photo: Image.Image, name: str | None = None) -> np.ndarray:
        """`plot` of an RGB photograph as an array (h,w,3) uint8; `name`: what the caption calls it."""
        limit = self.pixel_threshold
        contour = "heat map" if limit is None else f"heat map, contour from {limit:.4g} on"
        title = name or ("" if self.path is None else self.path.name)
        caption = ", ".join(filter(None, [*self._shown(), self.verdict])) + f"\n{title}"
        return drawing.inspection(
            np.asarray(photo), self.patch_map, self.mask(), self.heat_scale, ("photograph", contour), caption
        )

    def save(self, file: str | Path, photo: Any = None) -> None:
        """Writes the picture of `plot` to a file: JPEG, PNG or WebP by its ending. Raises as `plot`, and
        ConfigError for another ending."""
        file = Path(file)
        if file.suffix.lower() not in PICTURES:
            raise ConfigError(f"file is {one_line(file, 80)}; let it end in one of {', '.join(PICTURES)}.")
        picture = self.plot(photo)
        with whole_file(file, "wb") as out:
            picture.save(out, PICTURES[file.suffix.lower()], quality=QUALITY)

    def _photograph(self, photo: Any) -> Image.Image:
        if photo is None and self.opens is None:
            raise ConfigError("photo is missing: this photograph came from memory, so give it again.")
        given = self.opens() if photo is None and self.opens is not None else as_photograph(photo)
        if given.size != self.size:
            raise ConfigError(
                f"photo is {given.size[0]} x {given.size[1]} px, but the prediction is of one of "
                f"{self.size[0]} x {self.size[1]} px; give that one."
            )
        return given

    def to_dict(self) -> dict[str, Any]:
        """As a line of scores.jsonl holds it: JSON values; boxes and regions in the photograph's own
        pixels."""
        row = row_of("" if self.path is None else str(self.path), self)
        del row["picture"]
        return {
            **row,
            "image": row["image"] or None,
            "pixel_threshold": self.pixel_threshold,
            "regions": [region.to_dict() for region in self.regions],
        }


def threshold_of_bulk(found: Sequence[Prediction], rate: float) -> Threshold:
    """The threshold from the bulk of the test images; see `batch_threshold`."""
    require_rate(rate)
    peaks = np.array([one.patch_map.max() for one in found], np.float64)
    return batch_threshold(np.array([one.score for one in found]), peaks, rate)
