"""The command line of deploy/inspect.py."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from utils.console import open_what_is_closed
from utils.errors import ConfigError, DataError
from utils.score_rows import row_of
from utils.text import one_line, printable

if TYPE_CHECKING:
    from PIL import Image

    from deploy.graph import Graph
    from deploy.results import Folder

AHEAD = 2  # photographs that are read before they are asked for
LISTED_SKIPPED = 20  # lines about skipped files at the end; skipped.csv has them all
ASPECT = 1.25  # times another ratio of width to height than the references', from which on it is reported
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
UNEXPECTED = 70  # exit code: EX_SOFTWARE of sysexits.h
HELP = """Inspects photographs with a detector that export.py wrote.

    python deploy/inspect.py part.onnx parts/ --output results/parts
    python deploy/inspect.py part.onnx 'line/**/*.png' --format json --exit-code | jq .score

Writes scores.csv and scores.jsonl to the output folder, with predict.py's rows. Photographs that cannot be
read are skipped and listed at the end. Exit code 0 when done, 2 on an error or when nothing could be scored,
and with --exit-code 1 when a photograph is anomalous."""


def command() -> None:
    """Runs `main`: errors are one sentence and exit code 2, Ctrl-C is 130 and SIGTERM 143."""
    open_what_is_closed()
    answer_signals()
    try:
        code = main()
    except (ConfigError, DataError) as refused:
        code = failed(str(refused), 2)
    except MemoryError:
        code = failed("There is not enough memory; close other programs.", 2)
    except OSError as error:
        reason = f"{error.filename or 'a file'}: {error.strerror or one_line(error)}"
        code = failed(f"{printable(reason)}; mend it, then give the same command again.", 2)
    except SystemExit as done:  # --help
        code = done.code if isinstance(done.code, int) else 0
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name} line {place.lineno}"
        code = failed(
            f"a fault of this program ({type(error).__name__}: {one_line(error)}, {where}); "
            "please report it.",
            UNEXPECTED,
        )
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)  # threads that read photographs are not waited for


def answer_signals() -> None:
    """Ctrl-C and SIGTERM end this process at once, also while onnxruntime computes: every file is written
    whole or not at all. Python tells a thread of it, for it cannot interrupt a library's call."""
    wake = socket.socketpair()
    for end in wake:
        end.setblocking(end is wake[0])
    for number in EXIT_CODES:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake[1].fileno(), warn_on_full_buffer=False)
    threading.Thread(target=end_at_signal, args=wake, name="signals", daemon=True).start()


def end_at_signal(wake: socket.socket, _writing: socket.socket) -> None:
    """Waits for the number of a signal that ends this process; the end that is written to stays open."""
    while True:
        for number in wake.recv(64):
            if number in EXIT_CODES:
                say("Interrupted; nothing is finished yet, the same command starts over.")
                os._exit(EXIT_CODES[number])


def failed(sentence: str, code: int) -> int:
    say(f"error: {sentence}")
    return code


def say(line: str) -> None:
    """A line for people, on standard error; nobody may be reading it any more."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    require_packages()
    from data.inputs import find_images
    from deploy.graph import Graph
    from deploy.results import Folder
    from utils.lock import locked

    next(find_images(args.input), None)  # an input that is not there is reported before anything is loaded
    graph = Graph(args.detector, args.threads, args.provider, args.precision)
    if args.provider == "openvino" and graph.facts.get("operators") != "onnx":
        say(
            f"warning: {printable(args.detector)} has operators that OpenVINO leaves to onnxruntime, which "
            "is slow; export it with --operators onnx"
        )
    if args.threshold is not None:
        graph.threshold, graph.level = args.threshold, None
    if args.output is None:
        return inspect(graph, None, args)
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"--output {printable(args.output)} is a file; name a folder.")
    facts = {"detector": str(args.detector), "threshold": graph.threshold, "settings": graph.settings}
    with locked(args.output / ".lock", printable(args.output), "name another folder with --output"):
        return inspect(graph, Folder(args.output, facts), args)


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


def inspect(graph: Graph, folder: Folder | None, args: argparse.Namespace) -> int:
    """Scores everything, prints and writes what was asked for, reports the counts; returns the exit
    code."""
    scored, anomalous, skipped = 0, 0, []
    as_json = args.format == "json"
    for row in rows_of(graph, args.input, folder, args.max_pixels):
        if folder is not None:
            folder.add(row)
        if "error" in row:
            skipped.append((row["image"], row["error"]))
        else:
            scored, anomalous = scored + 1, anomalous + bool(row["anomalous"])
        if as_json and not printed(row):
            as_json = False
            if folder is None:
                break
    written = folder if folder is not None and folder.finish() else None
    say_skipped(skipped, written)
    if not scored:
        raise DataError(f"{printable(' '.join(args.input))}: no photograph could be scored; give image files")
    limit = graph.threshold
    found = f", {anomalous} anomalous at threshold {limit:.4f}" if limit is not None else ""
    say(f"{scored} photograph(s) scored{found}")
    return 1 if args.exit_code and anomalous else 0


def rows_of(
    graph: Graph, inputs: Sequence[str], folder: Folder | None, max_pixels: int
) -> Iterator[dict[str, Any]]:
    """Each photograph's row; one that cannot be read is {"image", "error"}."""
    from data.inputs import find_images

    unreadable: list[dict[str, Any]] = []
    left_out = [folder.folder] if folder is not None else []
    warned = False
    files = find_images(
        inputs, left_out, lambda name, reason: unreadable.append({"image": name, "error": reason})
    )
    for name, photo, reason in read_ahead(files, graph, max_pixels):
        yield from unreadable
        unreadable.clear()
        if photo is None:
            yield {"image": name, "error": reason}
            continue
        if not warned and other_shape(photo.size, graph.reference_sizes):
            warned = True
            say(
                f"warning: {name} (and perhaps others) is of another aspect ratio than the references: "
                "resizing distorts it. Crop it to their shape"
            )
        yield row_of(name, graph.look_at(photo, name))
    yield from unreadable


def read_ahead(
    files: Iterator[tuple[str, Path]], graph: Graph, max_pixels: int
) -> Iterator[tuple[str, Image.Image | None, str]]:
    """Name, photograph and, where it cannot be read, the reason; the next ones are read meanwhile."""
    from data.images import open_image

    def read(name: str, path: Path) -> tuple[str, Image.Image | None, str]:
        try:
            return name, open_image(path, max_pixels, graph.grey), ""
        except DataError as refused:
            return name, None, str(refused).removeprefix(f"{printable(path)}: ")

    with ThreadPoolExecutor(1, "read") as pool:
        waiting: deque[Future] = deque()
        for name, path in files:
            waiting.append(pool.submit(read, name, path))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def other_shape(size: tuple[int, int], references: Sequence[tuple[int, ...]]) -> bool:
    """Whether a photograph's (width, height) has another shape than every reference's."""
    ratio = size[0] / size[1]
    known = [width / height for width, height in references]
    return bool(known) and not any(1 / ASPECT < ratio / one < ASPECT for one in known)


def printed(row: dict[str, Any]) -> bool:
    """Prints a row as a line of JSON; False where nobody reads it any more."""
    try:
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def say_skipped(skipped: Sequence[tuple[str, str]], folder: Folder | None) -> None:
    if not skipped:
        return
    say(f"{len(skipped)} file(s) skipped:")
    for name, reason in skipped[:LISTED_SKIPPED]:
        say(f"  {name}: {reason}")
    if len(skipped) > LISTED_SKIPPED:
        where = f" (all in {printable(folder.folder / 'skipped.csv')})" if folder else ""
        say(f"  and {len(skipped) - LISTED_SKIPPED} more{where}")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the flags")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = Parser(
        prog="deploy/inspect.py", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detector", type=Path, metavar="FILE.onnx", help="what export.py wrote")
    parser.add_argument(
        "input",
        nargs="+",
        metavar="FILE|DIR|GLOB|TAR|@LIST",
        help="photographs to inspect; @LIST: a text file with a path on each line",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="needed unless --format json")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="json: one JSON object per line, as it goes",
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 when a photograph is anomalous")
    parser.add_argument(
        "--threshold", type=float, metavar="N", help="call a photograph anomalous from this score on"
    )
    parser.add_argument(
        "--max-pixels",
        type=positive,
        default=100_000_000,
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
    args = parser.parse_args(argv)
    if args.output is None and args.format != "json":
        parser.error("--output DIR is needed (only --format json can do without)")
    if args.threshold is not None and not math.isfinite(args.threshold):
        parser.error("--threshold must be a finite number")
    return args


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
