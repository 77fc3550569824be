"""How a program of deploy/ runs and ends: errors are one sentence and exit code 2, Ctrl-C is 130 and SIGTERM
143."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from utils.console import open_what_is_closed
from utils.errors import ConfigError, DataError
from utils.text import one_line, printable

EXIT_CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
UNEXPECTED = 70  # exit code: EX_SOFTWARE of sysexits.h
GRACE = 10.0  # seconds that a program which never ends by itself has for the photograph it scores
STARTS_OVER = "nothing is finished yet, the same command starts over"


class Leaving:
    """Whether this process was asked to end. `sentence`: how to go on then. `gently`: the program looks at
    `asked` and ends by itself, within GRACE; else it ends at once. `code`: its exit code."""

    def __init__(self) -> None:
        self.sentence, self.gently, self.code = STARTS_OVER, False, 0
        self.asked = threading.Event()

    def gentle(self, sentence: str) -> None:
        self.sentence, self.gently = sentence, True


leaving = Leaving()


def run(main: Callable[[], int]) -> None:
    """Runs a program and ends the process."""
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
    os._exit(leaving.code or code)  # threads that read photographs are not waited for


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
            if number not in EXIT_CODES:
                continue
            say(f"Interrupted; {leaving.sentence}.")
            leaving.code = EXIT_CODES[number]
            leaving.asked.set()
            if leaving.gently:
                time.sleep(GRACE)
            os._exit(leaving.code)


def failed(sentence: str, code: int) -> int:
    say(f"error: {sentence}")
    return code


def say(line: str) -> None:
    """A line for people, on standard error; nobody may be reading it any more."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


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


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the flags")


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
