"""predict.py after its flags: from photographs to rows, files and a summary."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from data.images import IMAGE_SUFFIXES
from data.inputs import find_images, refuse_missing
from fdsl.api import AnomalyDetector
from fdsl.inspection.score_files import Inspection, Row, Watch, finish, keep_apart, score
from fdsl.store.journal import Totals
from fdsl.store.prediction_folder import PredictionFolder, journal_of
from utils.console import only_from, put_json
from utils.drift import Drift
from utils.errors import ConfigError, DataError
from utils.lock import locked
from utils.score_rows import LISTED_SKIPPED, skipped_summary
from utils.signals import WITH_SCORED, gently
from utils.world import World

logger = logging.getLogger("fdsl")


def prepare(wanted: Inspection, make: Callable[[], AnomalyDetector], world: World) -> AnomalyDetector:
    """The detector, once the inputs and the output folder are checked."""
    if wanted.source is None:
        refuse_missing(wanted.inputs)  # before anything is loaded
    elif world.joined:
        raise ConfigError(f"{wanted.source.label} is read by one process: start predict.py without torchrun.")
    else:
        wanted.source.check()
    if wanted.output:
        keep_apart(wanted.output, wanted.inputs, wanted.references)
    detector = make()
    if wanted.source is not None and detector.reader.masks is not None:
        raise ConfigError(
            f"{detector.reader.masks} holds masks of files, and {wanted.source.label} gives frames: fit the "
            "detector with one mask for all of them."
        )
    return detector


def inspect(detector: AnomalyDetector, wanted: Inspection, world: World, as_json: bool) -> Totals | None:
    """Scores everything, in each process its share, and writes the results; the totals in the first process,
    else None. An interruption ends a camera, a stream or a clip; the results so far are written."""
    output, source = wanted.output, wanted.source
    with contextlib.ExitStack() as held:
        if source is not None:
            held.enter_context(gently(source.stop, WITH_SCORED))
        if output is None:
            return emit(score(detector, wanted), as_json, keep_on=False)
        if world.is_first:
            held.enter_context(locked(output / ".lock", str(output), "name another folder with --output"))
        folder = world.agree(lambda: _begin(detector, wanted, output) if world.is_first else None)
        if world.joined:
            only_from(logging.INFO if world.is_first else logging.WARNING)
        with contextlib.closing(journal_of(output, world.rank, wanted.keep_maps)) as journal:
            rows = score(detector, wanted, journal, world, () if folder is None else folder.rows())
            emit(rows, as_json and not world.joined, keep_on=True)
        world.wait()
        if folder is None:
            return None
        totals = finish(detector, folder, wanted.coco)
    if world.joined and totals.scored:
        watch = Watch(detector, drift=Drift(detector.references.statistics))
        with open(output / "scores.jsonl", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                watch.follow(row)
                as_json = as_json and put_json(row)
    return totals


def _begin(detector: AnomalyDetector, wanted: Inspection, output: Path) -> PredictionFolder:
    """Prepares the output folder and the list of photographs; with `resume` those are marked that are
    done."""
    folder = PredictionFolder(output, wanted.config_of(detector), wanted.resume)
    items = find_images(wanted.inputs, [output]) if wanted.source is None else None
    folder.take_inputs(items, detector.reader.masks)
    return folder


def emit(rows: Iterable[Row], as_json: bool, keep_on: bool) -> Totals:
    """Goes through the rows and counts them; `as_json`: and prints them. Where the reader of what is printed
    has seen enough, it ends, or goes on without printing (`keep_on`)."""
    totals = Totals()
    for row in rows:
        totals.skipped += "error" in row
        totals.scored += "error" not in row
        totals.anomalous += bool(row.get("anomalous"))
        if "error" in row and len(totals.first_skipped) < LISTED_SKIPPED:
            totals.first_skipped.append((row["image"], row["error"]))
        if as_json and not put_json(row):
            if not keep_on:
                break
            as_json = False
    return totals


def report(totals: Totals, detector: AnomalyDetector, wanted: Inspection) -> None:
    """Logs the skipped photographs and the totals; DataError where nothing could be scored."""
    table = wanted.output / "skipped.csv" if wanted.output and not totals.keeps_earlier else None
    for line in skipped_summary(totals.skipped, totals.first_skipped, table):
        logger.warning("%s", line)
    if totals.keeps_earlier:
        logger.info("%s keeps the results of the run before", wanted.output)
    if totals.scored == 0:
        if wanted.source is not None:
            too_short = wanted.source.endless and not totals.skipped
            cure = "; let it run longer" if too_short else ""
            raise DataError(wanted.source.lost or f"{wanted.source.label}: no frame was scored{cure}")
        raise DataError(
            f"{' '.join(wanted.named)}: no photograph could be scored; give image files "
            f"({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    threshold = detector.threshold
    logger.info(
        "%d photograph(s) scored%s%s",
        totals.scored,
        f", {totals.anomalous} anomalous at threshold {threshold.score:.4g}" if threshold else "",
        f"; open {wanted.output / 'report.html'}" if wanted.output else "",
    )
    if wanted.source is not None and wanted.source.lost:
        raise DataError(wanted.source.lost)
