"""What is the user's to mend, and names as messages show them."""

from __future__ import annotations


class Refused(Exception):
    """One sentence that names what is wrong and the cure."""


def printable(path: object) -> str:
    """A name as messages and tables show it: one line, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(path))


def one_line(error: BaseException, limit: int = 160) -> str:
    """An error's text as part of a sentence."""
    return printable(" ".join(str(error).split())[:limit]) or type(error).__name__
