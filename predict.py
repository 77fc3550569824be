"""Finds defects in your own photographs, from a few normal images.

    python predict.py --references normal/ --input parts/ --output results
    python predict.py --references normal/ --save-detector part.safetensors \\
        --input parts/ --output results
    python predict.py --detector part.safetensors --input line/ --output again

    python predict.py --detector part.safetensors --input 'line/**/*.png' --format json | jq .score
    python predict.py --detector part.safetensors --input rtsp://camera/1 --output line   # until Ctrl-C

Writes scores.csv, scores.jsonl, pictures/, contact_sheet.jpg and report.html to the output folder.
Photographs that cannot be read are skipped and listed at the end. Exit code 0 when done, 2 on an error or
when nothing could be scored, and with --exit-code 1 when a photograph is anomalous. Several processes share
the photographs and leave the files of one:

    torchrun --standalone --nproc-per-node 8 predict.py --detector part.safetensors --input line/ --output out
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.predict"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer()

import logging

from fdsl.flags.predict_flags import parse
from utils.command import run_command
from utils.console import put_line
from utils.errors import ConfigError
from utils.sources import live_source
from utils.world import connected, find_world

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> int:
    flags = parse(argv, __doc__)
    world = find_world()
    if (flags.doctor or flags.show) and not world.is_first:
        return 0
    if flags.doctor:
        from fdsl.inspection.diagnostics import examine, report

        return report(examine(flags.device, flags.precision, flags.given))
    if flags.show:
        from fdsl.store.detector_metadata import detector_file_as_text

        put_line(detector_file_as_text(flags.detector))
        return 0
    if not world.joined:
        from data.inputs import refuse_missing

        photographs = () if live_source(flags.input) else flags.input
        for given in (photographs, flags.references, flags.add_references, flags.calibration):
            refuse_missing(given)
    logger.info("loading the image model ...")
    from fdsl.commands.inspect_photographs import inspect, prepare, report
    from fdsl.flags.detector_from_flags import detector_of, inspection_of

    if not flags.input:  # a saved detector is changed, and no photographs are looked at
        if world.is_first:
            detector_of(flags)
        return 0
    if world.joined and not flags.output:  # before the others are waited for
        raise ConfigError("Several processes need a common folder: name it with --output DIR.")
    with connected(world):
        wanted = inspection_of(flags, world.restarted())
        detector = world.agree(
            lambda: prepare(wanted, lambda: detector_of(flags, saves=world.is_first), world),
            wanted.facts_with,
        )
        totals = inspect(detector, wanted, world, flags.format == "json")
    if totals is None:
        return 0
    report(totals, detector, wanted)
    return 1 if flags.exit_code and totals.anomalous else 0


def command() -> None:
    """The command line of predict.py and of fdsl-predict."""
    run_command(main)


if __name__ == "__main__":
    command()
