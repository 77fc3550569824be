"""What the server of MVTec AD 2 takes: maps and thresholded maps of the images whose masks are not public.

    DIR/anomaly_images/can/test_private/000_regular.tiff                    float16, at the image's size
    DIR/anomaly_images_thresholded/can/test_private_mixed/000_mixed.png     0 and 255, at the image's size

The rules are those of the checker that MVTec publishes with the dataset (Heckler-Kram et al., The MVTec AD 2
Dataset, 2025): eight objects with two splits each, numbered names without gaps, nothing else in the folders.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import tifffile

from data.dataset import make_loader
from data.folder import VALIDATION
from data.images import image_size
from data.listing import list_images
from data.records import Record
from fdsl.evaluation.category_metrics import threshold_of
from fdsl.evaluation.compute_maps import CategoryJob
from fdsl.evaluation.plan import PlannedRun
from fdsl.evaluation.single_pass import Detectors
from fdsl.evaluation.write_results import CategoryFiles
from fdsl.inspection.reading import Reading
from fdsl.metrics.exact import PixelMetrics
from fdsl.scoring import upsample_maps
from fdsl.store.maps import load_maps
from utils.config import FULL
from utils.device import worker_count
from utils.errors import ConfigError, DataError
from utils.files import write_bytes, write_json
from utils.log import progress
from utils.text import printable

logger = logging.getLogger("fdsl")
MAPS, THRESHOLDED = "anomaly_images", "anomaly_images_thresholded"
SUFFIXES = {MAPS: ".tiff", THRESHOLDED: ".png"}
SPLITS = {"test_private": "regular", "test_private_mixed": "mixed"}  # and how their images are called
FILE = "mvtec_ad_2.json"  # of the run: its metrics on test_public
LIMIT = 0.05  # false positive rate
NAMES = {"segf1": "SegF1", "aupro_05": "AU-PRO 0.05"}
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

    A pixel is anomalous from the `threshold_of` all validation images on. Raises
    NotFinite, and what `refuse` raises.
    """
    refuse(folder, run)
    root, metrics = run.split.root, {}
    tested = {category: _records(root, category, *SPLITS) for category in run.split.records}
    validation = {category: _records(root, category, VALIDATION) for category in run.split.records}
    for category, records in tested.items():
        job = _fitted(run, category, [*validation[category], *records], reading)
        maps = [one for part in _maps(job, reading) for one in part]
        threshold = threshold_of(maps[: len(validation[category])])
        logger.info(
            "%s: a pixel is anomalous from %.4g on, by validation images", printable(category), threshold
        )
        for record, single in zip(records, maps[len(validation[category]) :]):
            _write(folder, root, record, single, threshold, reading.max_pixels)
        metrics[category] = public_metrics(run, category, threshold, reading.max_pixels)
        logger.info("%s, test_public: %s", printable(category), in_per_cent(metrics[category]))
    means = {name: mean_of([one[name] for one in metrics.values()]) for name in NAMES}
    logger.info("mean, test_public: %s", in_per_cent(means))
    write_json(run.folder.path / FILE, {"categories": metrics, "mean": means})
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


def public_metrics(
    run: PlannedRun, category: str, threshold: float, max_pixels: int
) -> dict[str, float | None]:
    """SegF1 at a threshold and PRO up to a false positive rate of 0.05 of the category's test images, at
    their own size, as the server measures the private ones."""
    records, pixels = run.split.records[category], PixelMetrics()
    maps = load_maps(run.folder.path / "maps.npz").select([record.image_path for record in records]).maps
    files = CategoryFiles(run.split.root, records, max_pixels, run.split.grey.get(category))
    for index, single in enumerate(maps.fused(run.config.detector.windows)[0]):
        if (mask := files.mask(index, FULL)) is not None:
            pixels.update(_upsampled(single, mask.shape).astype(np.float32), mask)
    at = float(np.float16(threshold))
    return {"threshold": at, "segf1": pixels.f1_at(at), "aupro_05": pixels.pro(LIMIT)}


def in_per_cent(metrics: Mapping[str, float | None]) -> str:
    """SegF1 and PRO as part of a line."""
    values = {name: metrics[key] for key, name in NAMES.items()}
    return ", ".join(f"{name} {'-' if one is None else f'{100 * one:.1f}'}" for name, one in values.items())


def mean_of(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


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


def _fitted(run: PlannedRun, category: str, records: Sequence[Record], reading: Reading) -> CategoryJob:
    """The run's detector of a category, fitted to its references, with these images to test."""
    run = replace(run, split=replace(run.split, records={category: list(records)}, validation={}))
    job = CategoryJob.of(run, category, Detectors([run]).of(run), reading)
    job.fit(f"{category}, private images")
    if job.error is not None:
        raise job.error
    return job


def _maps(job: CategoryJob, reading: Reading) -> Iterator[np.ndarray]:
    """The fused maps (B,G,G) of its images, batch by batch."""
    windows = job.runs[0].config.detector.windows
    workers = worker_count(reading.workers)
    pinned = job.detector.backbone.device.type == "cuda"
    loader = make_loader(job.tested, reading.batch_size, workers=workers, pin=pinned)
    batches = math.ceil(len(job.tested) / reading.batch_size)
    for batch in progress(loader, batches, f"{job.category}, private images"):
        yield job.scorer(batch["image"], batch["path"]).fused(windows)[0]


def _write(
    folder: Path, root: Path, record: Record, single: np.ndarray, threshold: float, max_pixels: int
) -> None:
    """Writes an image's map (G,G) to both trees, at the image's size; both go by the same 16-bit values."""
    width, height = image_size(root / record.image_path, max_pixels=max_pixels)
    values = _upsampled(single, (height, width))
    mask = np.where(values >= np.float16(threshold), np.uint8(255), np.uint8(0))
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, values, compression="zlib", metadata=None)
    content = {MAPS: tiff.getvalue(), THRESHOLDED: cv2.imencode(".png", mask)[1].tobytes()}
    for tree, suffix in SUFFIXES.items():
        write_bytes(folder / tree / PurePosixPath(record.image_path).with_suffix(suffix), content[tree])


def _upsampled(single: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A map (G,G) at (height, width), float16."""
    height, width = size
    return upsample_maps(single[None].astype(np.float32), (height, width))[0].astype(np.float16)


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
