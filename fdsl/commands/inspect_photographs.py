"""predict.py after its flags: from photographs to rows, files and a summary."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext

from data.images import IMAGE_SUFFIXES
from data.inputs import refuse_missing
from fdsl.api import AnomalyDetector
from fdsl.inspection.score_files import Inspection, Row, finish, keep_apart, score
from fdsl.parallel.by_batch import inspect_together, meeting_place
from fdsl.store.prediction_folder import PredictionFolder
from fdsl.store.totals import Totals
from utils.console import put_json
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


def inspect_in_ranks(
    detector: AnomalyDetector, wanted: Inspection, world: World, as_json: bool
) -> Totals | None:
    """Scores this process's share; the first process prints all rows and returns the totals."""
    totals = inspect_together(detector, wanted, world)
    if totals is not None and totals.scored and as_json:
        with open(meeting_place(wanted.output) / "scores.jsonl", encoding="utf-8") as lines:
            emit(map(json.loads, lines), as_json, keep_on=False)
    return totals


def inspect(detector: AnomalyDetector, wanted: Inspection, as_json: bool) -> Totals:
    """Scores everything in this process and writes the results. An interruption ends a camera, a stream or a
    clip; the results so far are written."""
    with gently(wanted.source.stop, WITH_SCORED) if wanted.source is not None else nullcontext():
        return _inspect(detector, wanted, as_json)


def _inspect(detector: AnomalyDetector, wanted: Inspection, as_json: bool) -> Totals:
    if wanted.output is None:
        return emit(score(detector, wanted), as_json, keep_on=False)
    with locked(wanted.output / ".lock", str(wanted.output), "name another folder with --output"):
        config = wanted.config_of(detector)
        folder = PredictionFolder(wanted.output, config, wanted.resume)
        emit(score(detector, wanted, folder), as_json, keep_on=True)
        return finish(detector, folder, wanted.coco)


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
