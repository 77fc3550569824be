"""The maps of a whole test set, category by category; what is finished is kept, what is short of memory is
halved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from data.dataset import InspectionDataset, files_digest, make_loader
from data.grey import doubts_of
from data.images import open_image
from data.records import Record
from fdsl.calibration import set_scales
from fdsl.inspected import show_inspected, standing_for_all
from fdsl.rotation import fit_references
from fdsl.scoring import NotFinite, Scorer
from fdsl.store.finished_parts import FinishedParts
from fdsl.store.maps import RunMaps, join_run_maps
from models.detector import Detector
from models.features import join_score_maps
from utils.errors import ModelError
from utils.grey_range import GreyRange
from utils.log import progress, warn
from utils.signals import how_to_continue
from utils.text import printable

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
    rotations: int | str = 1,
    grey: Mapping[str, GreyRange] = MappingProxyType({}),
) -> RunMaps:
    """Maps and raw scores of every test image, one category at a time; `parts` gives and keeps the finished
    ones. `identity`: what the maps depend on beside their files, RunConfig.identity("maps"). `rotations`: how
    many turned copies of each reference are remembered, AUTO where the references decide. `grey`: the range
    of grey values of categories of more than 8 bits.

    Where memory is short, fewer images and then fewer windows are encoded at once. No image is left out:
    raises DataError for one that cannot be read, Overflow or ModelError for a map that is not finite.
    """
    keys = keys_of_parts(detector, root, references, tested, identity, grey)

    def photographs(part: list[Record], category: str) -> InspectionDataset:
        return InspectionDataset(
            root, part, detector.image_size, max_pixels=max_pixels, grey=grey.get(category)
        )

    scorer = Scorer(detector)
    found = []
    for number, (category, records) in enumerate(tested.items(), start=1):
        what = f"{printable(category)} ({number}/{len(tested)})"
        maps = parts.load(keys[category], [record.image_path for record in records])
        if maps is not None:
            logger.info("%s: taken from what is finished.", what)
        else:
            detector.speak_of(category)
            maps = detect_category(
                scorer,
                photographs(references[category], category),
                photographs(records, category),
                what,
                batch_size,
                workers,
                rotations,
            )
            parts.save(keys[category], maps)
        found.append(maps)
        how_to_continue(f"the same command goes on after {number} of {len(tested)} categories")
    return join_run_maps(found)


def keys_of_parts(
    detector: Detector,
    root: Path,
    references: Mapping[str, list[Record]],
    tested: Mapping[str, list[Record]],
    identity: Mapping[str, Any],
    grey: Mapping[str, GreyRange],
) -> dict[str, dict[str, Any]]:
    """Category -> all that its maps depend on; the arguments are those of `detect`."""
    identity = {**identity, "weights": detector.backbone.fingerprint}
    return {
        category: {**identity, **_digests(root, references[category], records, grey.get(category))}
        for category, records in tested.items()
    }


def _digests(
    root: Path, references: Sequence[Record], tested: Sequence[Record], grey: GreyRange | None
) -> dict[str, Any]:
    """What names a category's files, and the range that they are read in."""
    digests: dict[str, Any] = {
        "references": files_digest(root, references),
        "files": files_digest(root, tested),
    }
    return digests if grey is None else {**digests, "grey": [grey.low, grey.high]}


def detect_category(
    scorer: Scorer,
    shots: InspectionDataset,
    tested: InspectionDataset,
    what: str,
    batch_size: int,
    workers: int,
    rotations: int | str = 1,
) -> RunMaps:
    """Maps and raw scores of one category's test images, after its references `shots` were remembered."""
    try:
        if scorer.detector.looks_at_inspected:
            _look_at(scorer, tested, f"{what}, looked at beforehand")
        if len(shots):
            remember_shots(scorer, shots, rotations)
        tested.layout = scorer.detector.layout
        paths = [tested.root / record.image_path for record in tested.records]
        warn(doubts_of(paths, tested.grey, tested.max_pixels))
        loader = make_loader(tested, batch_size, workers, pin=scorer.detector.backbone.device.type == "cuda")
        batches = progress(loader, len(tested), what, lambda batch: len(batch["path"]))
        found = [scorer(batch["image"], batch["path"]) for batch in batches]
    except NotFinite as error:
        raise _in_test_words(error) from error
    return RunMaps([record.image_path for record in tested.records], join_score_maps(found))


def _look_at(scorer: Scorer, tested: InspectionDataset, what: str) -> None:
    """Shows the detector those of a category's test images that stand for all."""
    chosen = standing_for_all(tested.records)
    photographs = (
        open_image(tested.root / record.image_path, tested.max_pixels, tested.grey) for record in chosen
    )
    show_inspected(scorer, photographs, len(chosen), what=what)


class Known(NamedTuple):
    """A detector that remembers `references`, of which the first ones are those of another one."""

    detector: Detector
    references: int


def remember_shots(
    scorer: Scorer, shots: InspectionDataset, rotations: int | str, known: Known | None = None
) -> None:
    """Shows the detector a category's references, and sets what the maps of a method with scales are measured
    against. `known`: what remembers them already, and maybe more; both then match once what they match
    alike."""
    photographs = [
        open_image(shots.root / record.image_path, shots.max_pixels, shots.grey) for record in shots.records
    ]
    try:
        if known is None or not isinstance(rotations, int):
            turns = fit_references(scorer, photographs, rotations)
        else:
            known.detector.matching_once()
            scorer.detector.remember_first(known.detector, len(photographs), known.references)
            turns = rotations
        set_scales(scorer, photographs, turns)
    except NotFinite as error:
        error.name = f"a reference of {shots.records[0].category}"
        raise


def _in_test_words(error: NotFinite) -> Exception:
    """What a test run says of a map that is not finite: float32 mends it, or the user."""
    if error.narrow:
        return Overflow(f"Values overflowed in {error.precision} at {printable(error.name)}.")
    return ModelError(
        f"The map of {printable(error.name)} is not finite; check this image and the checkpoint."
    )
