"""A command's flags: what --help shows, the answer to a typo, settings from a file, and the types of
values."""

from __future__ import annotations

import argparse
import contextlib
import copy
import logging
import math
import re
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from utils.console import put, speaks
from utils.errors import ConfigError
from utils.limits import allow_pixels
from utils.options import nearest_name
from utils.settings_file import FLAGS_ALONE, Setting, Words, add_settings_flags, read_settings, write_settings
from utils.text import is_folder_name

logger = logging.getLogger("fdsl")
YES, NO = "true", "false"  # in a file, of a flag that takes no value
SHORTEST_TOKEN = 16  # characters
SECONDS = {"s": 1, "m": 60, "h": 3600}
LONG_CHOICES = 20  # characters, from which on it does not list a flag's values


class CommandLine(argparse.ArgumentParser):
    """A command's flags, with its module's docstring as the description, and one sentence for an invalid one.

    `common`: names of the flags that --help shows, in its order, each up to the first semicolon or bracket of
    its text; --help-all shows all of them. `settings`, by default with `common`: there are --config FILE and
    --save-config FILE too (utils/settings_file.py).
    """

    def __init__(
        self,
        description: str | None,
        prog: str | None = None,
        common: Sequence[str] = (),
        settings: bool = False,
    ) -> None:
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, None, description, formatter_class=as_written, add_help=not common)
        self.common, self._takes_settings = tuple(common), settings or bool(common)
        # Of the flags that were given, on the command line or in --config: name -> the words behind it.
        self.typed: dict[str, Words] = {}
        if common:
            ending: dict[str, Any] = {"action": _Help, "nargs": 0, "default": argparse.SUPPRESS}
            self.add_argument("-h", "--help", **ending, help="show the usual flags, and end")
            self.add_argument("--help-all", **ending, help="show all flags, by groups, and end")
        if self._takes_settings:
            add_settings_flags(self)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the flags\n" if speaks() else None)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Messages repeat what was typed, so they go through `put`."""
        with contextlib.suppress(OSError, ValueError):  # nobody may be reading it any more
            put(message or "", file or sys.stderr)

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """As argparse's; --max-pixels, of a command that has it, holds for the process from now on."""
        return _in_force(super().parse_args(self._prepared(args), namespace))

    def parse_intermixed_args(self, args=None, namespace=None):  # type: ignore[override]
        """`parse_args` of flags that may stand between files."""
        return _in_force(super().parse_intermixed_args(self._prepared(args), namespace))

    def _prepared(self, args: Sequence[str] | None) -> list[str]:
        """The words of a command line, once the settings of its --config are defaults."""
        words = sys.argv[1:] if args is None else list(args)
        self._refuse_unknown(words)
        self.typed = self._take_settings(words) if self._takes_settings else {}
        return words

    def save_settings(self, args: argparse.Namespace) -> None:
        """Writes what the flags and --config gave to the file of --save-config, where one is named."""
        if args.save_config is None or not speaks():
            return
        typed = dict(self.typed)
        for name in typed:
            if self.flag(name).nargs == 0:
                typed[name] = [YES if getattr(args, self.flag(name).dest) else NO]
        for secret in write_settings(args.save_config, typed, self.prog):
            logger.info("--%s is a secret: it is not written", secret)
        logger.info("wrote %s; use it with --config", args.save_config)

    @property
    def names(self) -> list[str]:
        """Of all flags, without --."""
        return [_name(action) for action in self._actions if action.option_strings]

    def flag(self, name: str) -> argparse.Action:
        return self._option_string_actions[f"--{name}"]

    def named(self, word: str) -> str | None:
        """The flag that a word names, in full or by its beginning; None for none, and for several."""
        flags = [flag for flag in self._option_string_actions if flag.startswith(word)]
        return word if word in flags else flags[0] if word.startswith("--") and len(flags) == 1 else None

    def refuse_without_effect(self, reason: str, names: Collection[str]) -> None:
        """Ends where one of these flags was given, as it has no effect with `reason`."""
        for name in self.typed:
            if name in names:
                self.error(f"--{name} has no effect with {reason}: leave it out")

    def refuse_all_but(self, names: Collection[str], reason: str) -> None:
        """Ends where another flag than these was given, as it has no effect with `reason`."""
        allowed = {*names, *FLAGS_ALONE, "debug"}
        self.refuse_without_effect(reason, {name for name in self.typed if name not in allowed})

    def format_short(self) -> str:
        """What --help prints: the first sentence, the first examples, and the usual flags."""
        summary, examples, *_ = *(self.description or "").strip().split("\n\n"), "", ""
        formatter = argparse.RawDescriptionHelpFormatter(self.prog, max_help_position=36)
        formatter.add_text(" ".join(summary.splitlines()))
        formatter.add_text(examples)
        formatter.start_section("usual flags")
        formatter.add_arguments([_brief(self.flag(name)) for name in self.common])
        formatter.end_section()
        formatter.add_text(f"All {len(self.names)} flags, by groups: --help-all")
        return formatter.format_help()

    def _take_settings(self, words: Sequence[str]) -> dict[str, Words]:
        """Makes the settings of a command line's --config the flags' defaults, and returns their words. Ends
        for an invalid one."""
        given = {self.named(word.partition("=")[0]): place for place, word in enumerate(words)}
        if "--config" not in given:
            return {}
        place = given["--config"]
        _, equals, file = words[place].partition("=")
        file = file if equals else next(iter(words[place + 1 : place + 2]), "")
        try:
            settings = read_settings(Path(file), self.names, self.prog)
        except ConfigError as error:
            self.error(str(error))
        typed = {}
        for setting in settings:
            action = self.flag(setting.name)
            action.required = False
            value = self._value_of(setting, action)
            if value is None or (isinstance(action, argparse._AppendAction) and f"--{setting.name}" in given):
                continue  # switched off, or all of it is given anew
            self.set_defaults(**{action.dest: value})
            typed[setting.name] = setting.words
        return typed

    def _value_of(self, setting: Setting, action: argparse.Action) -> Any:
        """The value that argparse would give a setting's words behind its flag."""
        name, words, place = setting
        if isinstance(action, argparse._AppendAction):
            times = words if any(isinstance(one, list) for one in words) else [words]
            return [self.read(action, [one] if isinstance(one, str) else one, place) for one in times]
        if action.nargs != 0:
            return self.read(action, words, place)
        if words not in ([YES], [NO]):
            self.error(f"{place}: {name} is {YES} or {NO}")
        return words == [YES] or (False if isinstance(action, argparse.BooleanOptionalAction) else None)

    def read(self, action: argparse.Action, words: Words, place: str) -> Any:
        """The value of words behind a flag; ends where they are invalid."""
        fewest, most = {None: (1, 1), "?": (0, 1), "+": (1, sys.maxsize)}[action.nargs]  # type: ignore[index]
        if not fewest <= len(words) <= most or any(isinstance(word, list) for word in words):
            self.error(f"{place}: {_name(action)} takes {'one value' if most == 1 else 'values'}")
        try:
            return super()._get_values(action, words)  # type: ignore[misc]
        except argparse.ArgumentError as error:
            self.error(f"{place}: {_name(action)}: {error.message}")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if isinstance(action, argparse._AppendAction):
            self.typed.setdefault(_name(action), []).append(list(arg_strings))
        elif action.option_strings:
            self.typed[_name(action)] = list(arg_strings)
        return super()._get_values(action, arg_strings)  # type: ignore[misc]

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Ends with the nearest flag where one does not exist, before any other error."""
        for word in words:
            if word == "--":
                return
            flag, flags = word.partition("=")[0], self._option_string_actions
            if flag.startswith("--") and not any(name.startswith(flag) for name in flags):
                near = nearest_name(flag, flags)
                self.error(f"there is no {flag}{near and f': {near}'}")


class _Help(argparse.Action):
    """Prints the usual flags, or with --help-all every one, and ends."""

    def __call__(self, parser, namespace, values, option_string=None):
        put(parser.format_help() if "--help-all" in self.option_strings else parser.format_short())
        parser.exit()


def _in_force(args: argparse.Namespace) -> argparse.Namespace:
    if "max_pixels" in args:
        allow_pixels(args.max_pixels)
    return args


def _name(action: argparse.Action) -> str:
    """A flag's name, without --; of one that can be switched off its plain one."""
    return next(flag for flag in action.option_strings if flag.startswith("--")).removeprefix("--")


def _brief(action: argparse.Action) -> argparse.Action:
    """A flag for --help: its text up to the first semicolon or bracket."""
    short = copy.copy(action)
    short.help = re.split(r"; | \(", action.help or "")[0]
    if action.choices is not None and len(",".join(map(str, action.choices))) > LONG_CHOICES:
        short.metavar = "NAME"
    if action.nargs == "+":
        named = str(action.metavar or action.dest.upper()).split("|")
        short.nargs, short.metavar = None, f"{'|'.join(named[:2])} ..."
    if isinstance(action, argparse.BooleanOptionalAction):
        short.option_strings = action.option_strings[:1]
    return short


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
        raise argparse.ArgumentTypeError(f"needs {SHORTEST_TOKEN} or more letters, digits and signs of ASCII")
    return text


def save_interval(text: str) -> tuple[int | None, float | None]:
    """An argparse type: `50` (steps) or `90s`, `5m`, `1h` -> (steps, None) or (None, seconds)."""
    number, unit = (text[:-1], SECONDS[text[-1]]) if text[-1:] in SECONDS else (text, None)
    if not (number.isascii() and number.isdigit() and 0 < int(number[:12]) <= 10**9):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps (50) and no time (90s, 5m, 1h)")
    return (int(number), None) if unit is None else (None, float(int(number) * unit))
