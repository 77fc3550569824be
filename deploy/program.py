"""How a program of deploy/ runs and ends: errors are one sentence and exit code 2, Ctrl-C is 130 and SIGTERM
143."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils import signals
from utils.console import open_what_is_closed, put_line
from utils.errors import ConfigError, DataError
from utils.text import one_line, printable

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else onnxruntime collects telemetry
UNEXPECTED = 70  # exit code: EX_SOFTWARE of sysexits.h


def run(main: Callable[[], int]) -> None:
    """Runs a program and ends the process."""
    open_what_is_closed()
    signals.answer()
    try:
        code = main()
        signals.leave_as_asked()
    except (ConfigError, DataError) as refused:
        code = failed(str(refused), 2)
    except MemoryError:
        code = failed("There is not enough memory; close other programs.", 2)
    except OSError as error:
        reason = f"{error.filename or 'a file'}: {error.strerror or one_line(error)}"
        code = failed(f"{printable(reason)}; mend it, then give the same command again.", 2)
    except SystemExit as done:  # --help
        code = done.code if isinstance(done.code, int) else 0
    except Exception as error:
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


def failed(sentence: str, code: int) -> int:
    say(f"error: {sentence}")
    return code


def say(line: str) -> None:
    """A line for people, on standard error; nobody may be reading it any more."""
    with contextlib.suppress(OSError, ValueError):
        put_line(printable(line), sys.stderr)


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


def number(low: float, high: float, what: str, kind: type = float) -> Callable[[str], Any]:
    """An argparse type: a number from `low` to `high`; `what` is one."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return parse


positive = number(1, math.inf, "a whole number from 1", int)
