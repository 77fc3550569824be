"""Inspecting photographs with a detector: from files to rows, pictures and a finished output folder."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from data.images import refuse_large
from data.inputs import find_images, read_list, share_of
from data.live import Frame, Source
from data.photographs import Loaded, in_batches, read_ahead
from fdsl.api import AnomalyDetector, Prediction
from fdsl.config.describe import detector_facts
from fdsl.config.run_config import PredictionConfig
from fdsl.inspection.coco_file import write_coco
from fdsl.references.reference_store import ReferenceCopies
from fdsl.report.pictures import write_image
from fdsl.report.prediction_report import (
    mask_name,
    picture_name,
    write_contact_sheet,
    write_prediction_report,
)
from fdsl.store.journal import Journal, Totals
from fdsl.store.prediction_folder import FOLDERS, LIST, PARTIAL, PredictionFolder
from models.backbones.weights_io.check_weights import fingerprint
from models.features import fuse
from utils.console import progress
from utils.device import worker_count
from utils.drift import Drift
from utils.errors import ConfigError, DataError
from utils.files import whole_file
from utils.image_statistics import other_shape
from utils.signals import command_line, how_to_continue
from utils.text import without_password
from utils.views import Views
from utils.world import World

logger = logging.getLogger("fdsl")
NOT_OF_MAPS = ("normal.", "references.")  # tensors that decide no map
Row = dict[str, Any]  # a line of scores.jsonl, or {"image": name, "error": reason}
ALONE = World()
MOST_WARNED = {"doubt": 5, "copy": 5, "shape": 1, "drift": 5}  # warnings of a kind
Arriving = Callable[[], list[Prediction]]  # of a batch that was begun


@dataclass(frozen=True)
class Inspection:
    """What is scored, and how: `inputs` as they were named. `output`: the folder of all files, None:
    none are written. `references`: files that are warned of among the inputs. `pictures`: "all", "anomalous"
    or "none". `masks`: whether there is a mask of each. `resume`: a run of the same settings goes on. `coco`:
    a file of all regions, None: none is written. `source`: the camera, stream or clip that is the input, None
    for files. `batch_size`: photographs that are scored at once. `workers`: threads that read them, None: by
    the cores there are."""

    inputs: Sequence[str]
    output: Path | None = None
    references: Sequence[str] = ()
    pictures: str = "all"
    keep_maps: bool = False
    resume: bool = False
    masks: bool = False
    coco: Path | None = None
    source: Source | None = None
    batch_size: int = 4
    workers: int | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The inputs as they may be displayed: without a password."""
        return tuple(without_password(str(given)) for given in self.inputs)

    def wants_picture_of(self, prediction: Prediction) -> bool:
        return self.pictures == "all" or (
            self.pictures == "anomalous" and prediction.is_anomalous is not False
        )

    def config_of(self, detector: AnomalyDetector) -> PredictionConfig:
        """What config.json holds of it, with this detector."""
        return run_config(
            detector,
            pictures=self.pictures,
            save_maps=self.keep_maps,
            save_masks=self.masks,
            input=self.named,
        )

    def facts_with(self, detector: AnomalyDetector) -> dict[str, Any]:
        """What must be the same wherever a part of the photographs is scored."""
        machine = detector.config.detector.machine
        same = {name: getattr(machine, name) for name in ("device_name", "precision", "torch")}
        return {**self.config_of(detector).identity(), **same}


def keep_apart(output: Path, inputs: Sequence[str], references: Sequence[str]) -> None:
    """ConfigError for an output folder among the references, or for photographs where its pictures will lie:
    pictures of a run must never be taken for photographs, nor photographs for pictures."""
    target = Path(os.path.realpath(output))
    for given in references:
        if Path(given).is_dir() and target.is_relative_to(os.path.realpath(given)):
            raise ConfigError(
                f"--output {output} lies in --references {given}: its pictures would be taken for normal "
                "images; name another folder."
            )
    for flag, paths in (("--input", inputs), ("--references", references)):
        for given in paths:
            for name in FOLDERS:
                if Path(os.path.realpath(given)).is_relative_to(target / name):
                    raise ConfigError(
                        f"{flag} {given} lies where --output {output} keeps its {name}; name another folder."
                    )


def score(
    detector: AnomalyDetector,
    wanted: Inspection,
    journal: Journal | None = None,
    world: World = ALONE,
    earlier: Iterable[Row] = (),
) -> Iterator[Row]:
    """Scores this process's share, photograph by photograph, and yields each one's row; one that cannot be
    read is a row with `error`. `journal` stores rows, maps, pictures and masks. `earlier`: the rows of the
    run that goes on, whose warnings it has logged."""
    drift = None if world.joined else Drift(detector.references.statistics, earlier=earlier)
    watch = Watch(detector, wanted.references, drift)
    for batch, predictions in _predicted(detector, *_batches(detector, wanted, world)):
        arrived = iter(predictions)
        for item in batch:
            if item.reason:
                if journal is not None:
                    journal.skip(item.name, item.reason)
                yield {"image": item.name, "error": item.reason}
                continue
            watch.look_at(item)
            row = _stored(item, next(arrived), journal, wanted)
            watch.follow(row)
            yield row


def _batches(
    detector: AnomalyDetector, wanted: Inspection, world: World
) -> tuple[Iterator[list[Loaded]], bool]:
    """What was read, in batches, and whether a GPU may be given one before the one before it is done with:
    each frame of a camera or a stream is scored at once."""
    size, threads, source = wanted.batch_size, worker_count(wanted.workers), wanted.source
    on_gpu = detector.scorer.detector.backbone.device.type != "cpu"
    if source is not None:
        if source.endless:
            how_to_continue("the same command with --resume keeps what is scored and goes on")
        frames = (_as_loaded(frame, detector) for frame in source.frames())
        size = 1 if source.endless else size
        return in_batches(progress(frames, None, "frames"), size), on_gpu and not source.endless
    count, items = None, find_images(wanted.inputs)
    if wanted.output is not None:
        listed, turn = wanted.output / PARTIAL / LIST, (size, world.rank, world.size)
        count = sum(1 for _ in share_of(read_list(listed), *turn))
        items = share_of(read_list(listed), *turn)
    layout, stamped = detector.scorer.detector.layout, wanted.output is not None
    how = detector.image_size, threads, 2 * size, layout, stamped, detector.reader
    return in_batches(progress(read_ahead(items, *how), count, "photographs"), size), on_gpu


def _as_loaded(frame: Frame, detector: AnomalyDetector) -> Loaded:
    photo = Image.fromarray(frame.pixels)
    stamp = {"bytes": frame.pixels.nbytes, "modified": frame.moment, "digest": frame.digest}
    try:
        refuse_large(*photo.size, "a frame of")
    except DataError as error:
        return Loaded(frame.name, reason=str(error), stamp=stamp)
    return Loaded(frame.name, photo, detector.to_batch([photo]), stamp=stamp)


def _begin(detector: AnomalyDetector, batch: Sequence[Loaded]) -> Arriving:
    items = [item for item in batch if not item.reason]
    if not items:
        return list
    views = [item.views for item in items if item.views is not None]
    sizes = [item.photo.size for item in items if item.photo is not None]
    return detector.begin_batch(Views.joined(views), sizes, [item.name for item in items])


def _predicted(
    detector: AnomalyDetector, batches: Iterable[list[Loaded]], ahead: bool
) -> Iterator[tuple[list[Loaded], list[Prediction]]]:
    """Batches with the predictions of what of them could be read. `ahead`: each is begun before the one
    before it is handed on, so that a GPU works while pictures are drawn."""
    if not ahead:
        yield from ((batch, _begin(detector, batch)()) for batch in batches)
        return
    begun: tuple[list[Loaded], Arriving] | None = None
    for batch in chain(batches, [None]):
        complete = begun and (begun[0], begun[1]())
        try:
            begun = (batch, _begin(detector, batch)) if batch else None
        finally:  # also where this batch is refused: the one before it is whole
            if complete:
                yield complete


class Watch:
    """Warns, MOST_WARNED times of each kind, of a photograph with doubtful grey values or of another shape
    than the references, of one that is a reference, and, with a `drift`, where the photographs as a whole no
    longer look like the references. `references`: the files that the detector was fitted to."""

    def __init__(
        self, detector: AnomalyDetector, references: Sequence[str] = (), drift: Drift | None = None
    ) -> None:
        self.sizes = detector.references.sizes
        self.copies = ReferenceCopies(detector.stored, references, detector.reader.grey)
        self.drift, self._warned = drift, Counter[str]()

    def look_at(self, item: Loaded) -> None:
        """Looks at a photograph that was read."""
        if item.doubt:
            self._warn("doubt", item.doubt)
        if item.photo is not None and (name := self.copies.name_of(item.photo)):
            self._warn(
                "copy",
                f"{item.name} is one of the references ({name}): its score is that of a photograph it was "
                "fitted to",
            )
        if item.photo is not None and (sentence := other_shape(item.photo.size, self.sizes)):
            self._warn("shape", f"{item.name}: {sentence} (and perhaps others)")

    def follow(self, row: Row) -> None:
        """Follows the photographs by their rows, in their order."""
        for sentence in self.drift.follow(row) if self.drift is not None else ():
            self._warn("drift", sentence)

    def _warn(self, kind: str, sentence: str) -> None:
        self._warned[kind] += 1
        if self._warned[kind] <= MOST_WARNED[kind]:
            logger.warning("warning: %s", sentence)


def _stored(item: Loaded, prediction: Prediction, journal: Journal | None, wanted: Inspection) -> Row:
    """A photograph's row, in the journal together with its maps and the pictures that are wanted of it."""
    row = inspected_row(item.name, prediction)
    if journal is not None and item.photo is not None:
        if wanted.wants_picture_of(prediction):
            row["picture"] = draw(item.name, item.photo, prediction, journal.folder)
        if wanted.masks:
            row["mask"] = write_mask(item.name, prediction, journal.folder)
        if item.path is not None:
            row["path"] = os.path.abspath(item.path)
        if item.stamp is not None:
            row["file"] = item.stamp
        journal.add(row, prediction.base_map, prediction.window_map)
    return row


def inspected_row(name: str, prediction: Prediction) -> Row:
    """A photograph's line of scores.jsonl; boxes and regions in its own pixels."""
    return {**prediction.to_dict(), "image": name, "picture": None, "mask": None}


def draw(name: str, photo: Image.Image, prediction: Prediction, output: Path) -> str:
    """Writes a photograph beside its heat map with the contours of its regions; returns its place in the
    output folder."""
    place = picture_name(name)
    write_image(output / place, prediction.picture(photo, name))
    return place


def write_mask(name: str, prediction: Prediction, output: Path) -> str:
    """Writes the mask of a photograph's regions, white on black, at its own size; returns its place in the
    output folder."""
    place = mask_name(name)
    with whole_file(output / place, "wb") as file:
        Image.fromarray(prediction.mask()).save(file, "PNG")
    return place


def run_config(detector: AnomalyDetector, **more: Any) -> PredictionConfig:
    """config.json: all that decides what comes out, and what else a reader wants to know."""
    state = {name: value for name, value in detector.tensors().items() if not name.startswith(NOT_OF_MAPS)}
    digest = fingerprint(state) if state else ""
    facts = {"trust": detector.decision.trust, "min_area": detector.min_area, **more}
    return PredictionConfig(detector.config, digest, detector.threshold, command_line(), **facts)


def finish(detector: AnomalyDetector, folder: PredictionFolder, coco: Path | None = None) -> Totals:
    """Everything that needs the whole run: tables, maps, contact sheet, report and the file `coco`."""
    totals = folder.finish(detector.grid, partial(fuse, windows=detector.config.detector.windows))
    if totals.scored:
        if coco is not None:
            write_coco(coco, folder.folder / "scores.jsonl")
        has_sheet = write_contact_sheet(folder.folder, totals.top)
        write_prediction_report(
            folder.folder,
            totals,
            detector.threshold,
            detector_facts(detector.config),
            detector.decision.trust,
            command_line(),
            has_sheet,
        )
    return totals
