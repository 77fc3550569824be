"""The one way to standard output and standard error: no control character of a name reaches the terminal."""

from __future__ import annotations

import json
import os
import sys
from typing import IO, Any

from utils.errors import ConfigError
from utils.text import one_line, without_controls


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
