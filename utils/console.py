"""The one way to standard output and standard error, which no control character of a name reaches; the log,
there and in a file; warnings, and progress."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, TypeVar

from utils.errors import ConfigError
from utils.text import one_line, without_controls

logger = logging.getLogger("fdsl")
Item = TypeVar("Item")
PLAIN_PROGRESS_SECONDS = 15.0  # without a terminal, one line at most this often
MOST_WARNINGS = 5  # of one list


def of_torchrun(name: str, otherwise: int) -> int:
    """The number in a variable of torchrun's; `otherwise` where it did not start this process. ConfigError
    for what is no number."""
    text = os.environ.get(name, str(otherwise)) if "MASTER_ADDR" in os.environ else str(otherwise)
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{name} is {one_line(text, 40)!r}, which is no number; torchrun sets it.")
    return int(text)


def speaks() -> bool:
    """Whether this process logs what all of torchrun's would log alike."""
    return of_torchrun("RANK", 0) == 0


def open_what_is_closed() -> None:
    """Opens standard streams that the caller has closed, to nowhere: else the next file would take their
    place, and the log would go to standard output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def put(text: str, to: IO[str] | None = None) -> bool:
    """Writes text to standard output, or `to` another stream. Control characters are escaped, and so are
    those that the stream's encoding lacks. False where nobody reads it any more: what is written from then on
    is dropped. OSError where it cannot be written, as on a full disk."""
    stream = to or sys.stdout
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(without_controls(text).encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True


def put_line(text: str, to: IO[str] | None = None) -> bool:
    """`put` with an end of line."""
    return put(f"{text}\n", to)


def put_json(value: Any) -> bool:
    """`put` of a value as a line of JSON, to standard output."""
    return put_line(json.dumps(value))


class _Console(logging.Handler):
    """Plain lines on standard error that do not break a progress bar. Control characters, which file names
    may hold, are escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody may be reading it any more
            bars = sys.modules.get("tqdm")  # without it there is no bar
            if bars is None:
                put_line(self.format(record), sys.stderr)
            else:
                bars.tqdm.write(without_controls(self.format(record)), file=sys.stderr)


def start_logging(file: Path | None = None) -> None:
    """Sends the log to standard error from now on, and also to `file` where one is named."""
    logging.raiseExceptions = False  # lines that a full disk does not take are still on standard error
    logger.setLevel(logging.DEBUG)  # the file gets every step, the console does not
    logger.propagate = False
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        console = _Console()
        console.setLevel(logging.INFO)
        console.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(console)
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        log = logging.FileHandler(file, mode="a", encoding="utf-8", errors="backslashreplace")
        log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(log)


def only_from(level: int) -> None:
    """Logs only lines of this level or above on standard error: of several processes one logs for all."""
    for handler in logger.handlers:
        if isinstance(handler, _Console):
            handler.setLevel(level)


def warn(sentences: Sequence[str]) -> None:
    """Logs warnings, at most MOST_WARNINGS of them, and the number of the others."""
    for sentence in sentences[:MOST_WARNINGS]:
        logger.warning("warning: %s", sentence)
    if len(sentences) > MOST_WARNINGS:
        logger.warning("warning: ... and %d more like it", len(sentences) - MOST_WARNINGS)


Listener = Callable[[str, int, int | None], None]  # takes the task's name, the items done, and their total
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def progress_to(listener: Listener) -> Iterator[None]:
    """Within it, in this thread, all `progress` is reported to `listener` too."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def logged_once() -> Iterator[None]:
    """Within it no line is logged twice."""
    logged: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        return not (line in logged or logged.add(line))

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def progress(
    items: Iterable[Item],
    total: int | None,
    what: str,
    size: Callable[[Item], int] = lambda _: 1,
    note: Callable[[], str] = str,
) -> Iterator[Item]:
    """Yields `items` with a progress bar (items/s and time left), or plain lines where there is no terminal.

    `total` (None: unknown) and the rate count `size(item)`, for instance the images of a batch; `note()` is
    displayed after them.
    """
    listener, bar = _listener.get(), None
    is_logged = all(one.level <= logging.INFO for one in logger.handlers if isinstance(one, _Console))
    start = last = time.monotonic()
    done = 0
    with contextlib.ExitStack() as open_bar:
        if is_logged and sys.stderr.isatty():
            from tqdm import tqdm

            bar = tqdm(total=total, desc=what, unit="image", leave=False, dynamic_ncols=True)
            open_bar.enter_context(bar)
        for item in items:
            if listener is not None:
                listener(what, done, total)
            yield item
            done += size(item)
            now = time.monotonic()
            if bar is not None:
                bar.set_postfix_str(note(), refresh=False)
                bar.update(size(item))
            elif is_logged and now - last >= PLAIN_PROGRESS_SECONDS and (total is None or done < total):
                last, rate = now, done / (now - start)
                counted = f"{done} of {total}" if total is not None else str(done)
                left = f", {(total - done) / rate:.0f} s left" if total is not None else ""
                more = f", {note()}" if note() else ""
                logger.info("%s: %s, %.2f a second%s%s", what, counted, rate, left, more)
