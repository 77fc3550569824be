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

import logging
from collections.abc import Callable, Iterator

from data.images import IMAGE_SUFFIXES
from data.inputs import refuse_missing
from fdsl.api import AnomalyDetector
from fdsl.flags.detector_from_flags import detector_of
from fdsl.flags.predict_flags import inspection_of, parse
from fdsl.inspection.diagnostics import examine, tell
from fdsl.inspection.row_stream import emit, print_rows
from fdsl.inspection.score_files import Inspection, Row, finish, keep_apart, score_files
from fdsl.parallel.by_block import goes_in_blocks, inspect_together, meeting_place
from fdsl.report.prediction_report import detector_file_as_text
from fdsl.store.prediction_folder import PredictionFolder, Totals, skipped_summary
from utils.command import run_command
from utils.console import put_line
from utils.errors import ConfigError, DataError, ModelError
from utils.lock import locked
from utils.world import World, connected, find_world

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv, __doc__)
    world = find_world()
    if args.doctor or args.show or not args.input:  # no photographs are looked at
        if not world.is_first:
            return 0
        if args.doctor:
            return tell(examine(vars(args)))
        if args.show:
            put_line(detector_file_as_text(args.detector))
        else:
            detector_of(args)
        return 0
    if world.joined:
        meeting_place(args.output)
    as_json = args.format == "json"
    with connected(world):
        wanted = inspection_of(args, world.restarted())
        detector, in_blocks = world.agree(
            lambda: prepare(wanted, lambda: detector_of(args, saves=world.is_first), world),
            lambda ready: wanted.facts_with(ready[0]),
        )
        totals = inspect_in_blocks(detector, wanted, world, as_json) if in_blocks else None
    if not world.is_first:
        return 0  # what goes in no blocks is inspected by one process
    totals = totals or inspect(detector, wanted, as_json)
    report(totals, detector, wanted)
    return 1 if args.exit_code and totals.anomalous else 0


def prepare(
    wanted: Inspection, make: Callable[[], AnomalyDetector], world: World
) -> tuple[AnomalyDetector, bool]:
    """The detector, and whether the photographs are inspected block by block, as several processes do."""
    refuse_missing(wanted.inputs)  # before anything is loaded
    if wanted.output:
        keep_apart(wanted.output, wanted.inputs, wanted.references)
    return make(), goes_in_blocks(wanted, world)


def inspect_in_blocks(
    detector: AnomalyDetector, wanted: Inspection, world: World, as_json: bool
) -> Totals | None:
    """Scores this process's blocks; the one that joins them all prints their rows and gives the totals."""
    totals = inspect_together(detector, wanted, world)
    if totals is not None and totals.scored and as_json:
        print_rows(meeting_place(wanted.output))
    return totals


def inspect(detector: AnomalyDetector, wanted: Inspection, as_json: bool) -> Totals:
    """Scores everything in this process and writes what was asked for."""
    if wanted.output is None:
        return emit(score(detector, wanted), as_json, keep_on=False)
    with locked(wanted.output / ".lock", str(wanted.output), "name another folder with --output"):
        config = wanted.config_of(detector)
        folder = PredictionFolder(wanted.output, config, wanted.resume, wanted.keep_maps)
        emit(score(detector, wanted, folder), as_json, keep_on=True)
        return finish(detector, folder)


def score(
    detector: AnomalyDetector, wanted: Inspection, folder: PredictionFolder | None = None
) -> Iterator[Row]:
    """The rows of all photographs, which the folder keeps."""
    return score_files(
        detector,
        wanted.inputs,
        folder,
        references=wanted.references,
        pictures=wanted.pictures,
        reading=wanted.reading,
    )


def report(totals: Totals, detector: AnomalyDetector, wanted: Inspection) -> None:
    """Logs what was skipped and what came out; DataError where nothing could be scored."""
    for line in skipped_summary(totals, wanted.output):
        logger.warning("%s", line)
    if totals.keeps_earlier:
        logger.info("%s keeps the results of the run before", wanted.output)
    if totals.scored == 0:
        raise DataError(
            f"{' '.join(map(str, wanted.inputs))}: no photograph could be scored; give image files "
            f"({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    threshold = detector.threshold
    logger.info(
        "%d photograph(s) scored%s%s",
        totals.scored,
        f", {totals.anomalous} anomalous at threshold {threshold.score:.4f}" if threshold else "",
        f"; open {wanted.output / 'report.html'}" if wanted.output else "",
    )


def command() -> None:
    """The command line of predict.py and of fdsl-predict."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
