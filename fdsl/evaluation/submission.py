"""What the server of MVTec AD 2 takes: maps and thresholded maps of the images whose masks are not public.

    DIR/anomaly_images/can/test_private/000_regular.tiff                    float16, at the image's size
    DIR/anomaly_images_thresholded/can/test_private_mixed/000_mixed.png     0 and 255, at the image's size

The rules are those of the checker that MVTec publishes with the dataset (Heckler-Kram et al., The MVTec AD 2
Dataset, 2025): eight objects with two splits each, numbered names without gaps, nothing else in the folders.
"""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import tifffile

from data.folder import VALIDATION
from data.images import image_size
from data.listing import list_images
from data.records import Record
from fdsl.config.evaluation_options import Reading
from fdsl.evaluation.category_metrics import threshold_of
from fdsl.evaluation.compute_maps import CategoryJob
from fdsl.evaluation.plan import PlannedRun
from fdsl.evaluation.single_pass import Detectors, score_category
from fdsl.scoring import upsample_maps
from models.features import join_score_maps
from utils.errors import ConfigError, DataError
from utils.files import write_bytes
from utils.text import printable

logger = logging.getLogger("fdsl")
MAPS, THRESHOLDED = "anomaly_images", "anomaly_images_thresholded"
SUFFIXES = {MAPS: ".tiff", THRESHOLDED: ".png"}
SPLITS = {"test_private": "regular", "test_private_mixed": "mixed"}  # and how their images are called
# Images of each split of the published dataset.
OBJECTS = {
    "can": 321,
    "fabric": 314,
    "fruit_jelly": 255,
    "rice": 277,
    "sheet_metal": 142,
    "vial": 276,
    "wallplugs": 232,
    "walnuts": 228,
}


def write_submission(folder: Path, run: PlannedRun, reading: Reading) -> None:
    """Scores the private images of each category by the run's settings and references, and writes both trees.

    A pixel is anomalous from the `threshold_of` all validation images on. Raises NotFinite, and what `refuse`
    raises.
    """
    refuse(folder, run)
    root = run.split.root
    for category in run.split.records:
        private, normal = _records(root, category, *SPLITS), _records(root, category, VALIDATION)
        split = replace(run.split, records={category: private}, validation={category: normal})
        maps = _maps(replace(run, split=split), category, reading)
        threshold = threshold_of(maps[len(private) :])
        logger.info(
            "%s: a pixel is anomalous from %.4g on, by validation images", printable(category), threshold
        )
        for record, single in zip(private, maps):
            _write(folder, root, record, single, threshold)
    for sentence in problems_of(folder):
        logger.warning("warning: the server refuses %s: %s", printable(folder), sentence)


def refuse(folder: Path, run: PlannedRun) -> None:
    """ConfigError for a folder with other files, which the server would refuse; DataError for a category
    without private or validation images. Nothing is written."""
    others = sorted(_names(folder) - set(SUFFIXES))
    if others or (folder.exists() and not folder.is_dir()):
        what = printable(others[0]) if others else "no folder"
        raise ConfigError(f"--submission {printable(folder)} holds {what}; name a new or empty folder.")
    for category in run.split.records:
        _records(run.split.root, category, *SPLITS, VALIDATION)


def _records(root: Path, category: str, *splits: str) -> list[Record]:
    """The images of these splits of a category, as normal ones; DataError for one without any."""
    records: list[Record] = []
    for split in splits:
        place = root / category / split
        names = list_images(place) if place.is_dir() else []
        if not names:
            raise DataError(
                f"{printable(place)}: there is no image; --submission needs MVTec AD 2 as it is published"
            )
        records += [Record(f"{category}/{split}/{name}", "", category, split, False) for name in names]
    return records


def _maps(run: PlannedRun, category: str, reading: Reading) -> np.ndarray:
    """The fused maps (n,G,G) of a category's test and validation images, by a detector that is fitted to its
    references."""
    what = f"{printable(category)}, private images"
    job = CategoryJob.of(run, category, Detectors([run]).of(run), reading)
    job.fit(what)
    score_category([job], reading, what)
    if job.error is not None:
        raise job.error
    return join_score_maps(job.maps).fused(run.config.detector.windows)[0]


def _write(folder: Path, root: Path, record: Record, single: np.ndarray, threshold: float) -> None:
    """Writes an image's map (G,G) to both trees, at the image's size; both go by the same 16-bit values."""
    width, height = image_size(root / record.image_path)
    values = upsample_maps(single[None].astype(np.float32), (height, width))[0].astype(np.float16)
    mask = np.where(values >= np.float16(threshold), np.uint8(255), np.uint8(0))
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, values, compression="zlib", metadata=None)
    content = {MAPS: tiff.getvalue(), THRESHOLDED: cv2.imencode(".png", mask)[1].tobytes()}
    for tree, suffix in SUFFIXES.items():
        write_bytes(folder / tree / PurePosixPath(record.image_path).with_suffix(suffix), content[tree])


def problems_of(folder: Path) -> list[str]:
    """The files that the published checker misses in a submission, and those that it does not take, as
    sentences; none where it is whole. What the files hold is as `_write` made them."""
    images = [
        f"{category}/{split}/{number:03d}_{kind}"
        for category, count in OBJECTS.items()
        for split, kind in SPLITS.items()
        for number in range(count)
    ]
    wanted = {f"{tree}/{image}{suffix}" for tree, suffix in SUFFIXES.items() for image in images}
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    problems = (wanted - found, "are missing"), (found - wanted, "do not belong into it")
    return [f"{len(files)} file(s) {what}, {min(files)} the first" for files, what in problems if files]


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
