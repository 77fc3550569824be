"""The command line of deploy/inspect.py."""

from __future__ import annotations

import argparse
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import signals
from utils.arguments import finite, real, whole
from utils.command import run_command
from utils.command_line import CommandLine
from utils.console import put_json
from utils.errors import ConfigError, DataError
from utils.limits import MAX_PIXELS
from utils.log import warn
from utils.score_rows import row_of, skipped_summary
from utils.text import one_line, printable

if TYPE_CHECKING:
    from PIL import Image

    from data.inputs import Listed
    from deploy.graph import Graph, Result
    from deploy.journal import Journal
    from deploy.results import Folder
    from deploy.watch import Arrivals, Arrived
    from utils.drift import Drift

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else onnxruntime collects telemetry
logger = logging.getLogger("fdsl")
AHEAD = 2  # photographs that are read before they are asked for
LONGEST = 86400  # seconds
MEMORY_CURE = "close other programs"
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


def require_packages() -> None:
    """ConfigError where onnxruntime, numpy or pillow cannot be imported."""
    try:
        import numpy  # noqa: F401
        import onnxruntime  # noqa: F401
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"A package is missing ({one_line(error)}): pip install onnxruntime numpy pillow."
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    require_packages()
    from data.inputs import find_images
    from deploy.results import Folder
    from utils.lock import locked

    # An input that is not there is reported before anything is loaded.
    next(find_images([args.watch] if args.watch else args.input), None)
    graph = graph_of(args)
    if args.output is None:
        return inspect(graph, None, args)
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"--output {printable(args.output)} is a file; name a folder.")
    with locked(args.output / ".lock", printable(args.output), "name another folder with --output"):
        code = (
            watch(graph, args) if args.watch else inspect(graph, Folder(args.output, facts_of(graph)), args)
        )
    signals.leave_as_asked()
    return code


def graph_of(args: argparse.Namespace) -> Graph:
    """The detector, with the threshold that was given."""
    from deploy.graph import Graph

    graph = Graph(args.detector, args.threads, args.provider, args.precision)
    if args.provider == "openvino" and graph.facts.get("operators") != "onnx":
        logger.warning(
            "warning: %s has operators that OpenVINO leaves to onnxruntime, which is slow; export it with "
            "--operators onnx",
            args.detector,
        )
    if args.threshold is not None:
        graph.threshold, graph.pixel_threshold = args.threshold, None
    return graph


def facts_of(graph: Graph) -> dict[str, Any]:
    """What config.json holds of a detector."""
    return {"detector": str(graph.file), "threshold": graph.threshold, "settings": graph.settings}


def watch(graph: Graph, args: argparse.Namespace) -> int:
    """Scores each photograph as it comes to rest in a folder, until Ctrl-C or SIGTERM; returns the exit
    code."""
    from deploy.journal import Journal
    from deploy.watch import Arrivals, looks
    from utils.drift import Drift

    signals.how_to_continue("the same command goes on after the photographs that are done")
    journal = Journal(args.output, {**facts_of(graph), "watch": args.watch})
    drift, asked = Drift(graph.statistics), threading.Event()
    for row in journal.rows():
        drift.follow(row)
    arrivals = Arrivals(Path(args.watch), journal.done, args.settle, [args.output], journal.skip)
    if journal.count:
        logger.info("%d photograph(s) are done already", journal.count)
    else:
        logger.info("waiting for photographs in %s; Ctrl-C ends it", args.watch)
    before, anomalous, as_json = journal.count, 0, args.format == "json"
    with signals.gently(asked, signals.WITH_SCORED):
        for one in looks(arrivals, args.stop_after, asked):
            row = row_at_rest(graph, one, arrivals, journal, drift, args) if one else None
            if row is not None:
                anomalous += bool(row["anomalous"])
                as_json = as_json and put_json(row)
    journal.close()
    logger.info("%d photograph(s) scored, %d anomalous", journal.count - before, anomalous)
    return 1 if args.exit_code and anomalous else 0


def row_at_rest(
    graph: Graph, one: Arrived, arrivals: Arrivals, journal: Journal, drift: Drift, args: argparse.Namespace
) -> dict[str, Any] | None:
    """The row of a photograph, which is in the journal when this returns; None where it has none, or not
    yet."""
    from data.images import open_image
    from utils.files import content_digest

    try:
        photo, digest = open_image(one.path, graph.grey), content_digest(one.path)
        if not arrivals.is_unchanged(one):
            return None  # somebody writes it again
        result = graph.look_at(photo, one.name)
    except (DataError, OSError) as error:
        if not one.final:
            arrivals.postpone(one)
            return None
        reason = str(error).removeprefix(f"{printable(one.path)}: ")
        logger.warning("skipped %s: %s", one.name, reason)
        journal.skip(one.name, reason)
        arrivals.finish(one)
        return None
    row = row_of(one.name, result)
    row["file"] = {"bytes": one.size, "modified": one.modified, "digest": digest}
    draw_picture(args.output, row, graph, photo, result, args.pictures, digest)
    journal.add(row)
    arrivals.finish(one)
    warn(drift.follow(row))
    return row


def draw_picture(
    folder: Path,
    row: dict[str, Any],
    graph: Graph,
    photo: Image.Image,
    result: Result,
    pictures: str,
    version: str = "",
) -> None:
    """Writes a photograph's picture where --pictures asks for it, and notes its place in the row."""
    if pictures == "all" or (pictures == "anomalous" and result.is_anomalous is not False):
        from deploy.pictures import draw, write

        picture = draw(photo, result, graph.heat_scale, graph.pixel_threshold)
        row["picture"] = write(folder, row["image"], version, picture)


def inspect(graph: Graph, folder: Folder | None, args: argparse.Namespace) -> int:
    """Scores everything, prints and writes what was asked for, reports the counts; returns the exit
    code."""
    scored, anomalous, skipped = 0, 0, []
    as_json = args.format == "json"
    for row in rows_of(graph, args.input, folder, args.pictures):
        if folder is not None:
            folder.add(row)
        if "error" in row:
            skipped.append((row["image"], row["error"]))
        else:
            scored, anomalous = scored + 1, anomalous + bool(row["anomalous"])
        if as_json and not put_json(row):
            as_json = False
            if folder is None:
                break
    has_table = folder is not None and folder.finish()
    for line in skipped_summary(len(skipped), skipped, args.output / "skipped.csv" if has_table else None):
        logger.warning("%s", line)
    if not scored:
        raise DataError(f"{printable(' '.join(args.input))}: no photograph could be scored; give image files")
    limit = graph.threshold
    decided = f", {anomalous} anomalous at threshold {limit:.4g}" if limit is not None else ""
    logger.info("%d photograph(s) scored%s", scored, decided)
    return 1 if args.exit_code and anomalous else 0


def rows_of(
    graph: Graph, inputs: Sequence[str], folder: Folder | None, pictures: str
) -> Iterator[dict[str, Any]]:
    """Each photograph's row; one that cannot be read is {"image", "error"}."""
    from data.inputs import find_images
    from utils.image_statistics import other_shape

    left_out = [folder.folder] if folder is not None else []
    warned = False
    for name, photo, reason in read_ahead(find_images(inputs, left_out), graph):
        if photo is None:
            yield {"image": name, "error": reason}
            continue
        if not warned and (sentence := other_shape(photo.size, graph.reference_sizes)):
            warned = True
            warn([f"{name}: {sentence} (and perhaps others)"])
        result = graph.look_at(photo, name)
        row = row_of(name, result)
        if folder is not None:
            draw_picture(folder.partial, row, graph, photo, result, pictures)
        yield row


def read_ahead(items: Iterator[Listed], graph: Graph) -> Iterator[tuple[str, Image.Image | None, str]]:
    """Name, photograph and, where it cannot be read, the reason; the next ones are read meanwhile."""
    from data.images import open_image

    def read(name: str, path: Path | None, reason: str) -> tuple[str, Image.Image | None, str]:
        if path is None:
            return name, None, reason
        try:
            return name, open_image(path, graph.grey), ""
        except DataError as refused:
            return name, None, str(refused).removeprefix(f"{printable(path)}: ")

    with ThreadPoolExecutor(1, "read") as pool:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(pool.submit(read, item.name, item.path, item.reason))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = CommandLine(HELP, "deploy/inspect.py", settings=True)
    parser.add_argument("detector", type=Path, metavar="FILE.onnx", help="what export.py wrote")
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
    add_graph_flags(parser)
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


def add_graph_flags(parser: CommandLine) -> None:
    """The flags of how a detector decides and computes."""
    parser.add_argument(
        "--threshold", type=finite, metavar="N", help="call a photograph anomalous from this score on"
    )
    parser.add_argument(
        "--max-pixels",
        type=whole(1),
        default=MAX_PIXELS,
        metavar="N",
        help="refuse photographs of more pixels (default 100,000,000)",
    )
    parser.add_argument(
        "--threads", type=int, choices=range(257), default=0, metavar="N", help="0: by cores (default)"
    )
    parser.add_argument(
        "--provider",
        choices=("cpu", "openvino"),
        default="cpu",
        help="openvino: faster on Intel's processors, with a file of export.py --operators onnx "
        "(pip install onnxruntime-openvino; default cpu)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16, with --provider openvino: two to four times as fast on a processor with AMX; scores move "
        "(docs/deploy.md; default fp32)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
