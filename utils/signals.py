"""Ctrl-C and SIGTERM: one line on how to continue, within a second, whatever the process is doing.

Imports nothing heavy, so that an entry point can call `answer` before it imports torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from utils.console import speaks
from utils.text import without_controls, without_password

GRACE = 0.5  # seconds for the main thread to end by itself; inside a library's call it cannot
INSTALLED = "fdsl-"  # how the commands' names begin once the package is installed
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WITH_SCORED = "Ending with what is scored"
NOTHING_DONE = "nothing is finished yet, the same command starts over"

_how_to_continue = NOTHING_DONE
_at_once = False
_gentle: tuple[threading.Event, str] | None = None
_answered: int | None = None  # the signal that set it
_last_actions: list[Callable[[], object]] = []
_leaving = threading.Lock()
_wake: tuple[socket.socket, socket.socket] | None = None


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def how_to_continue(sentence: str) -> None:
    """Sets the line that an interruption logs, for instance: the same command goes on after step 40."""
    global _how_to_continue
    _how_to_continue = sentence


def before_leaving(action: Callable[[], object]) -> None:
    """Registers an action for when an interruption ends the process; its errors are ignored."""
    _last_actions.append(action)


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


def answer(at_once: bool = False) -> None:
    """Answers SIGINT and SIGTERM from now on. Call it from the main thread.

    `Stopped` is raised in the main thread. Where that has not ended GRACE seconds later, because a library's
    call holds it, a second thread logs the line and ends the process: every file is written whole or not at
    all, so nothing is lost. `at_once`: the process ends and nothing is raised; for imports, which turn
    exceptions into errors of their own. Does nothing in a worker process: its parent answers.
    """
    global _wake, _at_once
    if multiprocessing.parent_process() is not None:
        return
    _at_once = at_once
    if _wake is not None:
        return
    for number in EXIT_CODES:
        signal.signal(number, _raise)
    _wake = socket.socketpair()
    for end in _wake:
        end.setblocking(end is _wake[0])
    signal.set_wakeup_fd(_wake[1].fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(_wake[0],), name="signals", daemon=True).start()


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Within it an interruption ends the process and nothing is raised: for imports, which turn exceptions
    into errors of their own."""
    global _at_once
    before, _at_once = _at_once, True
    try:
        yield
    finally:
        _at_once = before


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


def leave_as_asked(log: Callable[[str], object]) -> None:
    """`leave`, if an interruption was answered `gently` before."""
    if _answered is not None:
        leave(_answered, log)


def _raise(number: int, _frame: FrameType | None) -> None:
    if _gentle is not None:
        return  # `_watch` answers it
    if _at_once:
        leave(number, _write)
    raise Stopped(number)


def _write(line: str) -> None:
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
            _write(f"{sentence}; once more ends it at once.")
        elif stopping:
            time.sleep(GRACE)
            leave(stopping[0], _write)


def leave(number: int, log: Callable[[str], object]) -> NoReturn:
    """Logs the line, ends the processes that load images, and ends this one, at once."""
    if _leaving.acquire(blocking=False):
        if speaks():
            log(f"Interrupted; {_how_to_continue}: {command_line()}")
        for action in _last_actions:
            with contextlib.suppress(Exception):
                action()
    else:
        time.sleep(GRACE)  # the other thread does it
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(EXIT_CODES[number])
