"""Ctrl-C and SIGTERM: one line on how to continue, within a second, whatever the process is doing.

Imports nothing heavy, so that an entry point can call `answer` before it imports torch.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from utils.console import speaks
from utils.text import without_controls, without_password

GRACE = 0.5  # seconds for the line: nobody may be reading it
INSTALLED = "fdsl-"  # how the commands' names begin once the package is installed
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WITH_SCORED = "Ending with what is scored"
NOTHING_DONE = "nothing is finished yet, the same command starts over"

_how_to_continue = NOTHING_DONE
_gentle: tuple[threading.Event, str] | None = None
_answered: int | None = None  # the signal that set it
_last_actions: list[Callable[[], object]] = []
_leaving = threading.Lock()
_wake: tuple[socket.socket, socket.socket] | None = None


def how_to_continue(sentence: str) -> None:
    """Sets the line that an interruption logs, for instance: the same command goes on after step 40."""
    global _how_to_continue
    _how_to_continue = sentence


def before_leaving(action: Callable[[], object]) -> Callable[[], object]:
    """Registers an action for when an interruption ends the process; its errors are ignored."""
    _last_actions.append(action)
    return action


def command_line() -> str:
    """The command that is running, as it can be pasted into a shell; a secret is left out."""
    script, *arguments = map(without_password, sys.argv)
    for place, word in enumerate(arguments):
        if word.startswith("--token="):
            arguments[place] = "--token=..."
        elif place and arguments[place - 1] == "--token":
            arguments[place] = "..."
    name = os.path.basename(script)
    if not name.startswith(INSTALLED):
        return shlex.join(["python", script, *arguments])
    installed = shutil.which(name)
    here = installed is not None and os.path.realpath(installed) == os.path.realpath(script)
    return shlex.join([name if here else script, *arguments])


def answer() -> None:
    """Answers SIGINT and SIGTERM from now on. Call it from the main thread.

    A second thread logs the line and ends the process, also while a library's call holds the main thread:
    every file is written whole or not at all, so nothing is lost. Does nothing in a worker process: its
    parent answers.
    """
    global _wake
    if multiprocessing.parent_process() is not None or _wake is not None:
        return
    for number in EXIT_CODES:
        signal.signal(number, lambda *_: None)  # `_watch` answers it
    _wake = socket.socketpair()
    for end in _wake:
        end.setblocking(end is _wake[0])
    signal.set_wakeup_fd(_wake[1].fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(_wake[0],), name="signals", daemon=True).start()


@contextlib.contextmanager
def gently(asked: threading.Event, sentence: str) -> Iterator[None]:
    """Within it an interruption sets `asked` and logs `sentence`, and the block should end by itself; a
    second interruption ends the process at once."""
    global _gentle
    _gentle = asked, sentence
    try:
        yield
    finally:
        _gentle = None


def leave_as_asked() -> None:
    """`leave`, if an interruption was answered `gently` before."""
    if _answered is not None:
        leave(_answered)


def _log(line: str) -> None:
    """Logs a line, where a log was started."""
    logger = logging.getLogger("fdsl")
    if logger.handlers:
        logger.error("%s", line)
    else:
        os.write(2, f"{without_controls(line)}\n".encode(errors="backslashreplace"))


def _watch(wake: socket.socket) -> None:
    """Python's C-level handler writes each signal's number into the socket, also while the main thread is
    held."""
    global _answered
    while True:
        stopping = [number for number in wake.recv(64) if number in EXIT_CODES]
        if stopping and _gentle is not None and not _gentle[0].is_set():
            _answered, (asked, sentence) = stopping[0], _gentle
            asked.set()
            _log(f"{sentence}; once more ends it at once.")
        elif stopping:
            leave(stopping[0])


def leave(number: int) -> NoReturn:
    """Logs the line, ends the processes that load images, and ends this one, at once."""
    _leaving.acquire()
    if speaks():
        line = f"Interrupted; {_how_to_continue}: {command_line()}"
        logs = threading.Thread(target=_log, args=(line,), daemon=True)
        logs.start()
        logs.join(GRACE)
    end(EXIT_CODES[number])


def end(code: int) -> NoReturn:
    """Ends this process, and those that load images for it, at once and from any thread."""
    for action in _last_actions:
        with contextlib.suppress(Exception):
            action()
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(code)
