"""The photographs that a visitor inspects: their predictions and pictures, and the results as files."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fdsl.api import AnomalyDetector, Prediction
from fdsl.inspection.regions import Region
from fdsl.inspection.score_files import draw, finish, inspected_row, run_config
from fdsl.report import drawing
from fdsl.store.prediction_folder import PredictionFolder, journal_of
from page.uploads import Upload
from utils.drift import Drift
from utils.hot_regions import upsample

SIDE = 1600  # pixels: the longest side of a picture that goes to the browser
JPEG_QUALITY = 88


@dataclass
class Photograph(Upload):
    """An upload to inspect and, once it is scored by the detector as it is fitted now, its prediction."""

    prediction: Prediction | None = None
    # Of a map, at a pixel threshold and with a reason:
    _regions: tuple[Any, tuple, list[Region]] = None, (), []

    def regions_by(self, detector: AnomalyDetector) -> list[Region]:
        """Its regions at the detector's pixel threshold, which are displayed where it is anomalous (the
        browser decides that). They take long, so they are stored."""
        if self.prediction is None:
            return []
        # of a copy: its map is as large as the photograph, and is not stored
        judged = replace(judged_by(detector, self.prediction), threshold=None)
        follows = judged.map_threshold, judged.reason
        if self._regions[0] is not judged.patch_map or self._regions[1] != follows:
            self._regions = judged.patch_map, follows, judged.regions
        return self._regions[2]

    def row_by(self, detector: AnomalyDetector) -> dict[str, Any]:
        """`row` with what the detector predicted; all but the score follow its threshold as it is now."""
        prediction = self.prediction
        score = None if prediction is None else prediction.score
        return self.row | {
            "score": score,
            "normal_percentile": None if score is None else detector.decision.percentile(score),
            "reason": "" if prediction is None else detector.reason(prediction),
            "regions": [region.to_dict() for region in self.regions_by(detector)],
        }


def judged_by(detector: AnomalyDetector, prediction: Prediction) -> Prediction:
    """A prediction of the detector, with what follows from its threshold and its scores of normal images as
    they are now."""
    threshold = detector.threshold
    return replace(
        prediction,
        threshold=None if threshold is None else threshold.score,
        map_threshold=None if threshold is None else threshold.pixel_threshold,
        normal_percentile=detector.decision.percentile(prediction.score),
        reason=detector.reason(prediction),
        heat_scale=detector.heat_scale,
    )


def drift_of(photographs: Iterable[Photograph], detector: AnomalyDetector) -> list[dict[str, str]]:
    """In which ways the last photographs as a whole do not look like the references: a sentence each, and the
    name of one that shows it."""
    drift = Drift(detector.references.statistics)
    for one in photographs:
        prediction = one.prediction
        if prediction is not None:
            drift.follow(
                {
                    "image": one.name,
                    "reason": prediction.reason,
                    "statistics": prediction.statistics,
                    "normal_percentile": detector.decision.percentile(prediction.score),
                }
            )
    return [change._asdict() for change in drift.changes.values()]


def picture_of(upload: Upload, heat: Prediction | None = None) -> bytes:
    """JPEG of an upload; `heat`: with the heat map of this prediction over it."""
    photo = upload.open(most=SIDE)
    if heat is not None:
        values = upsample(heat.patch_map, photo.height, photo.width)
        photo = Image.fromarray(drawing.heat(np.asarray(photo), values, heat.heat_scale))
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def write_results(photographs: Sequence[Photograph], detector: AnomalyDetector, file: Path) -> None:
    """Writes a ZIP file with what predict.py would have written of scored photographs; those that were
    removed meanwhile are left out."""
    folder = file.with_suffix("")
    try:
        output = PredictionFolder(folder, run_config(detector))
        with closing(journal_of(folder, 0, output.keep_maps)) as journal:
            for one in photographs:
                try:
                    photo = one.open(detector.reader.grey)
                except KeyError:
                    continue
                assert one.prediction is not None
                judged = judged_by(detector, one.prediction)
                picture = draw(one.name, photo, judged, journal.folder)
                row = inspected_row(one.name, judged) | {"picture": picture}
                journal.add(row, judged.base_map, judged.window_map)
        finish(detector, output)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # almost all of it is JPEG
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    archive.write(path, path.relative_to(folder).as_posix())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
