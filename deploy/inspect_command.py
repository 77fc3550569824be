"""The command line of deploy/inspect.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from deploy.detector_flags import MEMORY_CURE, alone_in, detector_command_line, graph_of, require_packages
from utils import signals
from utils.command import run_command
from utils.command_line import real

LONGEST = 86400  # seconds
SETTLE = 2.0  # seconds without a change, after which a file of --watch is at rest
HELP = """Inspects photographs with a detector that export.py wrote.

    python deploy/inspect.py part.onnx parts/ --output results/parts
    python deploy/inspect.py part.onnx 'line/**/*.png' --format json --exit-code | jq .score
    python deploy/inspect.py part.onnx --watch camera/ --output results/line     # until Ctrl-C

Writes scores.csv and scores.jsonl to the output folder, with predict.py's rows. Photographs that cannot be
read are skipped and listed at the end. Exit code 0 when done, 2 on an error or when nothing could be scored,
and with --exit-code 1 when a photograph is anomalous."""


def command() -> None:
    """The command line of deploy/inspect.py."""
    run_command(main, MEMORY_CURE)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    require_packages()
    from data.inputs import find_images
    from deploy.inspection import inspect
    from deploy.watch import watch

    # An input that is not there is reported before anything is loaded.
    next(find_images([args.watch] if args.watch else args.input), None)
    graph, as_json = graph_of(args), args.format == "json"
    with alone_in(args.output):
        if args.watch:
            settings = Path(args.watch), args.settle, args.stop_after
            anomalous = watch(graph, *settings, args.output, args.pictures, as_json)
        else:
            anomalous = inspect(graph, args.input, args.output, args.pictures, as_json)
    signals.leave_as_asked()
    return 1 if args.exit_code and anomalous else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = detector_command_line(HELP, "deploy/inspect.py")
    parser.add_argument(
        "input",
        nargs="*",
        metavar="FILE|DIR|GLOB|TAR|@LIST",
        help="photographs to inspect; @LIST: a text file with a path on each line",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="needed unless --format json")
    parser.add_argument(
        "--watch",
        metavar="DIR",
        help="inspect the photographs in this folder and each new one as it comes to rest, until Ctrl-C; the "
        "same command goes on later",
    )
    parser.add_argument(
        "--settle",
        type=real(0, LONGEST),
        metavar="SECONDS",
        help=f"--watch: a file is at rest when it has not changed for so long (default {SETTLE:g})",
    )
    parser.add_argument(
        "--stop-after",
        type=real(0, LONGEST),
        metavar="SECONDS",
        help="--watch: end when nothing new has come for so long",
    )
    parser.add_argument(
        "--pictures",
        choices=("none", "anomalous", "all"),
        default="none",
        help="draw heat map and contours of these photographs (default none)",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="json: one JSON object per line, as it goes",
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 when a photograph is anomalous")
    args = parser.parse_intermixed_args(argv)
    if bool(args.input) == bool(args.watch):
        parser.error("give photographs to inspect, or a folder with --watch")
    if args.watch and not os.path.isdir(args.watch):
        parser.error(f"--watch {args.watch} is no folder")
    if args.output is None and (args.watch or args.pictures != "none"):
        parser.error("--watch and --pictures need --output DIR")
    if args.output is None and args.format != "json":
        parser.error("--output DIR is needed (only --format json can do without)")
    for flag, value in (("--settle", args.settle), ("--stop-after", args.stop_after)):
        if value is not None and not args.watch:
            parser.error(f"{flag} is for --watch")
    parser.save_settings(args)
    args.settle = SETTLE if args.settle is None else args.settle
    return args
