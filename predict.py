"""Scores your own photographs: from a few references of good parts to scores, decisions, boxes and pictures.

    python predict.py --references good/ --input parts/ --output results/parts
    python predict.py --references good/ --input parts/ --output results --save-detector part.safetensors
    python predict.py --detector part.safetensors --input 'line/**/*.png' --format json | jq .score

Writes scores.csv, scores.jsonl, pictures/, contact_sheet.jpg and report.html to the output folder.
Photographs that cannot be read are skipped and listed at the end. Exit code 0 when done, 2 on an error or
when nothing could be scored, and with --exit-code 1 when a photograph is anomalous. Several processes share
the photographs and leave the files of one:

    torchrun --standalone --nproc-per-node 8 predict.py --detector part.safetensors --input line/ --output out
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.predict"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer(at_once=True)

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

from data.images import IMAGE_SUFFIXES
from data.inputs import refuse_missing
from data.labels import read_labels
from fdsl.api import AnomalyDetector
from fdsl.blockwise import Inspection, inspect_together, is_in_blocks
from fdsl.doctor import examine, tell
from fdsl.flags.chosen_detector import change_references, decide, load_or_make, remember
from fdsl.flags.predict_flags import parse
from fdsl.inspection import Row, finish, keep_apart, run_config, score_files
from fdsl.reading import Reading
from fdsl.report.prediction_report import detector_file_as_text
from fdsl.run_config import PredictionConfig
from fdsl.store.prediction_folder import LISTED_SKIPPED, PredictionFolder, Totals, skipped_summary
from utils.command import run_command
from utils.console import put_line
from utils.errors import ConfigError, DataError, ModelError
from utils.lock import locked
from utils.world import World, connected, find_world

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv, __doc__)
    world = find_world()
    if args.doctor or args.show or not args.input:
        return without_photographs(args) if world.is_first else 0
    if args.output is None and world.size > 1:
        raise ConfigError("Several processes need a folder to meet in: name it with --output DIR.")
    with connected(world):
        args.resume = world.restarted() or args.resume
        detector, in_blocks = world.agree(
            lambda: prepare(args, world), lambda ready: facts_of(ready[0], args)
        )
        if in_blocks:
            return inspect_in_blocks(detector, args, world)
    if not world.is_first:
        return 0  # an interrupted run of one process is ended by one
    if args.output is None:
        return inspect(detector, None, args)
    with locked(args.output / ".lock", str(args.output), "name another folder with --output"):
        return inspect(detector, open_folder(detector, args), args)


def without_photographs(args: argparse.Namespace) -> int:
    """What looks at no photographs: --doctor, --show, or a saved detector that is changed."""
    if args.doctor:
        return tell(examine(args))
    if args.show:
        put_line(detector_file_as_text(args.detector))
        return 0
    args.labelled = read_labels(args.labels) if args.labels else None
    learn_more(args)
    return 0


def prepare(args: argparse.Namespace, world: World) -> tuple[AnomalyDetector, bool]:
    """The detector, and whether the photographs are inspected block by block, as several processes do."""
    args.labelled = read_labels(args.labels) if args.labels else None
    refuse_missing(args.input)  # said before anything is loaded
    if args.output:
        keep_apart(args.output, args.input, args.references or [])
    detector = learn_more(args, saves=world.is_first)
    if args.output is None:
        return detector, False
    begun = args.resume and PredictionFolder.state_of(args.output) != "new"
    if world.joined and begun and not is_in_blocks(args.output):
        logger.info("%s is the run of one process: one goes on with it", args.output)
        return detector, False
    return detector, world.size > 1 or (args.resume and is_in_blocks(args.output))


def facts_of(detector: AnomalyDetector, args: argparse.Namespace) -> dict[str, Any]:
    """What must be the same wherever a part of the photographs is inspected."""
    machine = detector.config.detector.machine
    same = {name: getattr(machine, name) for name in ("device_name", "precision", "torch")}
    return {**prediction_config(detector, args).identity(), **same}


def learn_more(args: argparse.Namespace, saves: bool = True) -> AnomalyDetector:
    """The detector of the flags with all that it is to know, and its threshold; saved where wanted."""
    detector = load_or_make(args)
    detector.max_pixels = args.max_pixels
    if not args.detector:
        remember(detector, args)
    else:
        change_references(detector, args)
    decide(detector, args)
    if args.save_detector and saves:
        detector.save(args.save_detector)
        logger.info("wrote %s; use it with --detector", args.save_detector)
    return detector


def prediction_config(detector: AnomalyDetector, args: argparse.Namespace) -> PredictionConfig:
    inputs = tuple(map(str, args.input))
    return run_config(detector, pictures=args.pictures, save_maps=args.save_maps, input=inputs)


def open_folder(detector: AnomalyDetector, args: argparse.Namespace) -> PredictionFolder:
    """The output folder, begun or, with --resume, taken up where an earlier run of the same settings
    stopped."""
    return PredictionFolder(args.output, prediction_config(detector, args), args.resume, args.save_maps)


def inspect_in_blocks(detector: AnomalyDetector, args: argparse.Namespace, world: World) -> int:
    """Scores this process's blocks; the one that joins them all says what became of the photographs."""
    wanted = Inspection(
        args.output,
        args.input,
        prediction_config(detector, args),
        args.references or (),
        args.pictures,
        args.save_maps,
        Reading(args.batch_size, args.workers, args.max_pixels),
    )
    totals = inspect_together(detector, wanted, world, args.resume)
    if totals is None:
        return 0
    if args.format == "json" and totals.scored:
        with open(args.output / "scores.jsonl", encoding="utf-8") as lines:
            emit(map(json.loads, lines), as_json=True, keep_on=False)
    report(totals, detector, args)
    return 1 if args.exit_code and totals.anomalous else 0


def inspect(detector: AnomalyDetector, folder: PredictionFolder | None, args: argparse.Namespace) -> int:
    """Scores everything, writes what was asked for and says what became of it; returns the exit code."""
    rows = score_files(
        detector,
        args.input,
        folder,
        references=args.references or (),
        pictures=args.pictures,
        reading=Reading(args.batch_size, args.workers, args.max_pixels),
    )
    counted = emit(rows, as_json=args.format == "json", keep_on=folder is not None)
    totals = counted if folder is None else finish(detector, folder)
    report(totals, detector, args)
    return 1 if args.exit_code and totals.anomalous else 0


def emit(rows: Iterable[Row], as_json: bool, keep_on: bool) -> Totals:
    """Goes through the rows, printing them with --format json; counts them. Where the reader of what is
    printed has seen enough, it ends, or goes on without printing (`keep_on`)."""
    totals = Totals()
    for row in rows:
        totals.skipped += "error" in row
        totals.scored += "error" not in row
        totals.anomalous += bool(row.get("anomalous"))
        if "error" in row and len(totals.first_skipped) < LISTED_SKIPPED:
            totals.first_skipped.append((row["image"], row["error"]))
        if as_json and not printed(row):
            if not keep_on:
                break
            as_json = False
    return totals


def printed(row: Row) -> bool:
    """Prints a row as a line of JSON; False where nobody reads it any more."""
    try:
        put_line(json.dumps(row))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def report(totals: Totals, detector: AnomalyDetector, args: argparse.Namespace) -> None:
    """Says what was skipped and what was found; DataError where nothing could be scored."""
    for line in skipped_summary(totals, args.output):
        logger.warning("%s", line)
    if totals.keeps_earlier:
        logger.info("%s keeps the results of the run before", args.output)
    if totals.scored == 0:
        raise DataError(
            f"{' '.join(map(str, args.input))}: no photograph could be scored; give image files "
            f"({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    threshold = detector.threshold
    logger.info(
        "%d photograph(s) scored%s%s",
        totals.scored,
        f", {totals.anomalous} anomalous at threshold {threshold.score:.4f}" if threshold else "",
        f"; open {args.output / 'report.html'}" if args.output else "",
    )


def command() -> None:
    """The command line of predict.py and of fdsl-predict."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
