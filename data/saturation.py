"""The saturation thresholds of defects: MVTec LOCO AD's defects_config.json.

The value of a mask's pixels selects the threshold, and each mask file is one region (Bergmann et al., Beyond
Dents and Scratches, IJCV 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from data.masks import mask_files, mask_values
from data.records import Record
from utils.errors import DataError
from utils.files import read_json
from utils.numbers import is_finite
from utils.text import printable

FILE = "defects_config.json"


class SaturatingRegion(NamedTuple):
    """A region (H,W) bool, and its saturation: the share of its area in (0,1] from which on it counts as
    detected completely."""

    mask: np.ndarray
    share: float


@dataclass(frozen=True)
class Saturations:
    """A category's saturation thresholds by the value of a mask's pixels: in pixels or, for the values in
    `relative`, as a share of the region's area."""

    file: Path
    thresholds: dict[int, float]
    relative: frozenset[int]

    @classmethod
    def of(cls, root: Path, records: Sequence[Record]) -> Saturations | None:
        """The thresholds in the nearest file above the records' masks; None without a file, or for an empty
        list. DataError for other content."""
        masks = [record.mask_path for record in records if record.mask_path]
        above = PurePosixPath(masks[0]).parents if masks else ()
        file = next((root / place / FILE for place in above if (root / place / FILE).is_file()), None)
        entries = None if file is None else read_json(file)
        if file is None or entries == []:
            return None
        if not isinstance(entries, list) or not all(map(_is_entry, entries)):
            raise DataError(
                f"{printable(file)}: is not a list of entries with pixel_value, saturation_threshold and "
                "relative_saturation, as MVTec LOCO AD has it; put the dataset's own file there, or remove it"
            )
        thresholds = {entry["pixel_value"]: float(entry["saturation_threshold"]) for entry in entries}
        return cls(
            file, thresholds, frozenset(one["pixel_value"] for one in entries if one["relative_saturation"])
        )

    def regions(self, mask: Path) -> list[SaturatingRegion]:
        """The regions of a mask file, or of a folder of mask files, at the mask's own size. DataError for a
        value without a threshold."""
        regions = []
        for file in mask_files(mask):
            values = mask_values(file)
            for value in np.unique(values[values != 0]).tolist():
                if value not in self.thresholds:
                    raise DataError(
                        f"{printable(file)}: its value {value} is not in {printable(self.file)}, which has "
                        "the saturation threshold of each value; mend one of them"
                    )
                region = values == value
                regions.append(SaturatingRegion(region, self._share(value, int(region.sum()))))
        return regions

    def _share(self, value: int, area: int) -> float:
        """The saturation of a region of `area` pixels as a share, rounded down to pixels, at least one."""
        threshold = self.thresholds[value]
        pixels = int(threshold * area) if value in self.relative else int(threshold)
        return min(max(pixels, 1), area) / area


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("relative_saturation"), bool):
        return False
    value, threshold = entry.get("pixel_value"), entry.get("saturation_threshold")
    return type(value) is int and value > 0 and is_finite(threshold) and threshold > 0
