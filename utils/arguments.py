"""The types of a command line's values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from utils.text import is_folder_name

SHORTEST_TOKEN = 16  # characters


def number(kind: type, low: float, high: float | None = None, above: bool = False) -> Callable[[str], Any]:
    """An argparse type: a number of a kind, int or float, from `low` (or `above` it) to `high`."""
    span = f"{'a whole number' if kind is int else 'a number'} {'above' if above else 'from'} {low}"
    span += "" if high is None else f" to {high}"

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {span}") from None
        if not (value > low if above else value >= low) or not (high is None or value <= high):
            raise argparse.ArgumentTypeError(f"{text} is not {span}")
        return value

    return parse


whole, real = partial(number, int), partial(number, float)


def finite(text: str) -> float:
    """An argparse type: any number that is one."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def or_word(word: str, number: Callable[[str], float]) -> Callable[[str], float | str]:
    """An argparse type: a word, or what `number` takes."""

    def parse(text: str) -> float | str:
        if text == word:
            return text
        try:
            return number(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, nor {word}") from None

    return parse


def name_part(text: str) -> str:
    """An argparse type: a name that is one folder of a path."""
    if not is_folder_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be the name of a folder")
    return text


def token(text: str) -> str:
    """An argparse type: a secret that fits into a header, and that cannot be guessed."""
    if len(text) < SHORTEST_TOKEN or not text.isascii():
        raise argparse.ArgumentTypeError(
            f"needs at least {SHORTEST_TOKEN} letters, digits and signs of ASCII"
        )
    return text


SECONDS = {"s": 1, "m": 60, "h": 3600}


def save_interval(text: str) -> tuple[int | None, float | None]:
    """An argparse type: `50` (steps) or `90s`, `5m`, `1h` -> (steps, None) or (None, seconds)."""
    number, unit = (text[:-1], SECONDS[text[-1]]) if text[-1:] in SECONDS else (text, None)
    if not (number.isascii() and number.isdigit() and 0 < int(number[:12]) <= 10**9):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of steps (50) nor a time (90s, 5m, 1h)"
        )
    return (int(number), None) if unit is None else (None, float(int(number) * unit))
