"""Untrusted texts as parts of one-line sentences, and names in natural order."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

from utils.errors import ConfigError

LONGEST_NAME = 255  # bytes of a file's name, on all usual file systems
LONGEST_SENTENCE = 2000  # characters
HOSTS = ("127.0.0.1", "localhost", "[::1]")  # whom programs that listen answer without a token
# UTF-32's mark before UTF-16's, which it begins with.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decoded(content: bytes, errors: str = "strict") -> str:
    """The text of a file's content: UTF-8, or the encoding of its byte order mark.

    ValueError, in words, for bytes that are no text in that encoding, and for UTF-16 without a mark.
    """
    mark, encoding = next(((mark, name) for mark, name in MARKS if content.startswith(mark)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding, errors if encoding == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"is no {encoding.upper()} text (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("is no UTF-8 text (it holds zeros, as UTF-16 without a mark does); save it as UTF-8")
    return text


def as_text(what: str, value: Any) -> str:
    """`value`, if it is printable text of a usual length; else ConfigError, which calls it `what`."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST_SENTENCE:
        raise ConfigError(f"{what} {one_line(repr(value), 40)} is no text.")
    return value


def as_file(what: str, value: Any) -> Path:
    """`value` as a Path, if it can name a file; else ConfigError, which calls it `what`."""
    path = Path(value) if isinstance(value, (str, os.PathLike)) else Path()
    try:
        name = os.fsencode(path.name)
    except UnicodeEncodeError:  # half of a surrogate pair
        name = b""
    if not name or b"\0" in name or len(name) > LONGEST_NAME:
        raise ConfigError(f"{what} {one_line(repr(value), 40)} is no name of a file.")
    return path


def one_line(text: object, limit: int = 160) -> str:
    """An untrusted text, for instance an error's, as part of a one-line sentence: control characters are
    escaped."""
    return printable(" ".join(str(text).split())[:limit])


def shortened(sentence: str) -> str:
    """A sentence of at most LONGEST_SENTENCE characters: of a longer one the middle is left out."""
    if len(sentence) <= LONGEST_SENTENCE:
        return sentence
    half = LONGEST_SENTENCE // 2
    return f"{sentence[:half]} ... {sentence[-half:]}"


def natural_key(text: str) -> tuple:
    """Sort key that puts 2.png before 10.png; equal only for equal texts."""
    parts = re.split(r"([0-9]+)", text)
    numbers = [part.lstrip("0") for part in parts[1::2]]
    return tuple(zip(parts[::2], [*((len(n), n) for n in numbers), (0, "")])), text


def printable(path: str | Path) -> str:
    """A name for messages and tables: one line, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(path))


def without_password(text: str) -> str:
    """A text without the name and password of an address, rtsp://NAME:PASSWORD@HOST."""
    return re.sub(r"(?<=://)[^/@\s]*@", "...@", text)


def as_key(name: str) -> str:
    """A name like `printable`, but different for different names: its own backslashes are doubled."""
    return printable(name.replace("\\", "\\\\"))


def without_controls(text: str) -> str:
    """A text of several lines whose control characters, except line ends and tabs, are escaped."""
    is_plain = lambda mark: mark in "\n\t" or not unicodedata.category(mark).startswith("C")
    return "".join(mark if is_plain(mark) else ascii(mark)[1:-1] for mark in text)


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's text, cut to `limit` characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:limit]


def in_words(value: Any) -> str:
    """A setting's value as it is typed: the parts of several one after the other."""
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def is_folder_name(text: str) -> bool:
    """Whether a text can be the name of one folder of a path."""
    return text not in ("", ".", "..") and not any(mark in text for mark in "/\\\0\n")


def is_own_host(host: str) -> bool:
    """Whether a request's Host names this machine; other names may be another site's, that lead here."""
    return host.rsplit(":", 1)[0] in HOSTS
