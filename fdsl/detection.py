"""The maps of a whole test set, category by category; what is finished is kept, what is short of memory is
halved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from data.dataset import InspectionDataset, files_digest, make_loader
from data.images import open_image
from data.records import Record
from fdsl.calibration import NotFinite, Scorer
from fdsl.store.finished_parts import FinishedParts
from fdsl.store.maps import RunMaps, join_maps
from models.detector import Detection, Detector
from models.methods.both import BothHeads
from utils.errors import ModelError
from utils.log import progress
from utils.memory import Halving, sparing
from utils.signals import how_to_continue
from utils.text import shown

logger = logging.getLogger("fdsl")


class Overflow(Exception):
    """Maps that are not finite, in a precision narrower than float32; the message says where."""


def detect(
    detector: Detector,
    root: Path,
    references: Mapping[str, list[Record]],
    tested: Mapping[str, list[Record]],
    parts: FinishedParts,
    identity: Mapping[str, Any],
    batch_size: int,
    workers: int,
    max_pixels: int,
) -> RunMaps:
    """Maps and raw scores of every test image, one category at a time; `parts` gives and keeps the finished
    ones. `identity`: what the maps depend on beside their files, RunConfig.identity("maps").

    Where memory is short, fewer images and then fewer windows are encoded at once. No image is left out:
    raises DataError for one that cannot be read, Overflow or ModelError for a map that is not finite.
    """
    keys = {
        category: {
            **identity,
            "weights": detector.backbone.fingerprint,
            "references": files_digest(root, references[category]),
            "files": files_digest(root, records),
        }
        for category, records in tested.items()
    }

    def photographs(part: list[Record]) -> InspectionDataset:
        return InspectionDataset(root, part, detector.image_size, max_pixels=max_pixels)

    score = Halving(detector, join_detections, detector.halve_windows)
    found = []
    for number, (category, records) in enumerate(tested.items(), start=1):
        maps = parts.load(keys[category], [record.image_path for record in records])
        if maps is not None:
            logger.info("%s (%d/%d): taken from the interrupted run.", shown(category), number, len(tested))
        else:
            maps = detect_category(
                score,
                photographs(references[category]),
                photographs(records),
                f"{shown(category)} ({number}/{len(tested)})",
                batch_size,
                workers,
            )
            parts.save(keys[category], maps)
        found.append(maps)
        how_to_continue(f"the same command goes on after {number} of {len(tested)} categories")
    return join_maps(found)


def detect_category(
    score: Halving,
    shots: InspectionDataset,
    tested: InspectionDataset,
    what: str,
    batch_size: int,
    workers: int,
) -> RunMaps:
    """Maps and raw scores of one category's test images, after its references `shots` were remembered;
    `score` calls the detector."""
    detector = score.function
    if len(shots):
        photographs = torch.stack([shots[index]["image"] for index in range(len(shots))])
        sparing(lambda: detector.remember(photographs), detector.halve_windows)
    if isinstance(detector.heads, BothHeads):
        level_methods(detector, shots)
    loader = make_loader(tested, batch_size, workers, pin=detector.backbone.device.type == "cuda")
    found = []
    for batch in progress(loader, len(tested), what, lambda batch: len(batch["path"])):
        maps = Detection(*(None if part is None else part.float().cpu() for part in score(batch["image"])))
        for index, path in enumerate(batch["path"]):
            if not all(part is None or torch.isfinite(part[index]).all() for part in maps):
                raise_not_finite(path, detector.backbone.dtype)
        found.append(maps)
    base, base_score, window, window_score = (
        None if part is None else part.numpy() for part in join_detections(found)
    )
    return RunMaps([record.image_path for record in tested.records], base, base_score, window, window_score)


def level_methods(detector: Detector, shots: InspectionDataset) -> None:
    """Method both: what its two maps are measured against, from a category's references alone."""
    photographs = [open_image(shots.root / record.image_path, shots.max_pixels) for record in shots.records]
    try:
        Scorer(detector).level_methods(photographs)
    except NotFinite:
        raise_not_finite(f"a reference of {shots.records[0].category}", detector.backbone.dtype)


def join_detections(parts: Sequence[Detection]) -> Detection:
    return Detection(*(None if column[0] is None else torch.cat(column) for column in zip(*parts)))


def raise_not_finite(path: str, dtype: torch.dtype) -> NoReturn:
    if dtype != torch.float32:
        raise Overflow(f"Values overflowed in {str(dtype).removeprefix('torch.')} at {shown(path)}.")
    raise ModelError(f"The map of {shown(path)} is not finite; check this image and the checkpoint.")
