"""Flags from the fields that declare them, and the flags that several commands share."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable, Mapping
from string import Template
from typing import Any, TypeVar

from fdsl.config.presets import with_preset
from models.methods.registry import METHODS
from utils.command_line import number
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.options import CommandOptions, Option, options_of, without
from utils.text import in_words

logger = logging.getLogger("fdsl")
Flags = TypeVar("Flags", bound=CommandOptions)

# What the help texts of options say of the methods: `$name` -> the text.
OF_METHODS = {
    "components": "; ".join(
        f"{name}: {', '.join(method.components)}" for name, method in METHODS.items() if method.components
    ),
    "text_methods": ", ".join(name for name, method in METHODS.items() if method.takes_text),
}


def take_preset(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values (None: not given), and those that `--preset` adds, which are logged."""
    filled = with_preset(name, given)
    if name is not None:
        added = {one.replace("_", "-"): filled[one] for one in filled if given.get(one) is None}
        flags = (f"--{one} {in_words(value)}" for one, value in added.items())
        logger.info("preset %s: %s", name, " ".join(flags))
    return filled


def add_options(
    parser: argparse.ArgumentParser, *kinds: Any, only: Callable[[Option], bool] = lambda option: True
) -> None:
    """The flags of the options that the dataclasses `kinds` declare themselves, in their groups."""
    for kind in kinds:
        for name, one in options_of(kind).items():
            if one.help and name in kind.__annotations__ and only(one):
                add_option(parser, one.group or kind.group, one, issubclass(kind, CommandOptions))


def add_detector_options(parser: argparse.ArgumentParser, research: bool = False) -> None:
    """All that a detector is put together from; `research`: also what only experiments change."""
    kinds = (WindowConfig, MethodConfig, BackboneConfig)
    add_options(parser, *kinds, only=lambda one: research or not one.research)


def add_option(
    parser: argparse.ArgumentParser,
    title: str,
    option: Option,
    has_default: bool = False,
    default: str | None = None,
) -> None:
    """The flag of one option, in the group of this title. `has_default`: it has the option's own where it is
    not given, else None; `default`: in words, where the command has another."""
    groups = {one.title: one for one in parser._action_groups}
    group = groups.get(title) or parser.add_argument_group(title) if title else parser
    if default is None and option.default is not None:
        default = option.typed(option.default)
    arguments: dict[str, Any] = {
        "help": Template(option.help).substitute(OF_METHODS, default=default).replace("%", "%%"),
        "default": option.default if has_default else None,
    }
    if option.kind is bool and not option.words:
        arguments["action"] = argparse.BooleanOptionalAction if option.default else "store_true"
        group.add_argument(option.flag, **arguments)
        return
    arguments |= {"metavar": option.metavar, "required": option.required}
    if option.kind is bool:
        arguments |= {"type": int, "choices": (0, 1)}
    elif option.choices:
        arguments["choices"] = option.choices
    if option.span is not None:
        arguments["type"] = _number_or_word(option)
    elif option.reads is not None:
        arguments["type"] = option.reads
    if option.many or option.several:
        arguments |= {"nargs": "+", "action": "append" if option.again else "store"}
    if "" in option.words:
        arguments |= {"nargs": "?", "const": option.words[""]}
    group.add_argument(option.flag, **arguments)


def _number_or_word(option: Option) -> Callable[[str], Any]:
    """An argparse type: a number of the option's span, or one of its words; text is taken as it is."""
    low, high = option.span or (0, 0)
    limit: Any = None if high == math.inf else high
    parse = number(option.kind, low, limit, option.above)
    return lambda text: option.words[text] if text in option.words else parse(text)


def read(kind: Callable[..., Flags], args: argparse.Namespace) -> Flags:
    """The values of the flags of a dataclass of `CommandOptions`; `given`: of all other flags."""
    values = vars(args)
    own = {name: values[one.dest] for name, one in options_of(kind).items() if one.dest in values}
    rest = without(values, (*own, "config", "save_config"))
    return kind(**own, given={name: value for name, value in rest.items() if value is not None})
