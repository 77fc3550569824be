"""The flags that several commands share, group by group."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from string import Template
from typing import Any

from fdsl.config.presets import PRESETS
from models.methods.registry import METHODS
from utils.arguments import real, whole
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.limits import MAX_PIXELS
from utils.options import Option, options_of
from utils.text import in_flags

logger = logging.getLogger("fdsl")

# What the help texts of options say of the methods: `$name` -> the text.
OF_METHODS = {
    "components": "; ".join(
        f"{name}: {', '.join(method.parts)}" for name, method in METHODS.items() if method.parts
    ),
    "text_methods": ", ".join(name for name, method in METHODS.items() if method.takes_text),
}


def add_options(
    parser: argparse.ArgumentParser, kind: Any, only: Callable[[Option], bool] = lambda option: True
) -> dict[str | None, argparse._ArgumentGroup]:
    """The flags of the options of `kind`, the same in every command; returns the groups by their titles. Not
    given, flags are None: a checkpoint, a stored run or the defaults decide."""
    groups = {group.title: group for group in parser._action_groups}
    for option in (one for one in options_of(kind).values() if one.help and only(one)):
        title = option.group or kind.group
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        add_option(groups[title], option)
    return groups


def add_option(group: argparse._ActionsContainer, option: Option, default: str | None = None) -> None:
    """The flag of one option; `default`: in words, where the command has another than the option's own."""
    group.add_argument(option.flag, **_of_argparse(option, default))


def add_detector_options(parser: argparse.ArgumentParser, research: bool = False) -> None:
    """All that a detector is put together from; `research`: also what only experiments change."""
    for kind in (WindowConfig, MethodConfig, BackboneConfig):
        add_options(parser, kind, lambda option: research or not option.research)


def _of_argparse(option: Option, default: str | None = None) -> dict[str, Any]:
    """The arguments of `add_argument` for an option."""
    if default is None and option.default is not None:
        default = option.typed(option.default)
    text = Template(option.help).substitute(OF_METHODS, default=default).replace("%", "%%")
    if option.kind is bool and not option.default:
        return {"action": "store_true", "default": None, "help": text}
    arguments: dict[str, Any] = {"help": text, "metavar": option.metavar}
    if option.kind is bool:
        arguments |= {"type": int, "choices": (0, 1)}
    if option.choices:
        arguments["choices"] = option.choices
    if option.span is not None:
        arguments["type"] = _number_or_word(option)
    if option.many or option.several:
        arguments["nargs"] = "+"
    if "" in option.words:
        arguments |= {"nargs": "?", "const": option.words[""]}
    return arguments


def _number_or_word(option: Option) -> Callable[[str], Any]:
    """An argparse type: a number of the option's span, or one of its words; text is taken as it is."""
    assert option.span is not None
    low, high = option.span
    number = real(low, high, option.above) if option.kind is float else whole(int(low), int(high))
    return lambda text: option.words[text] if text in option.words else number(text)


def add_max_pixels(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--max-pixels",
        type=whole(1),
        default=MAX_PIXELS,
        metavar="N",
        help=f"a larger image is refused (default {MAX_PIXELS:,})",
    )


def add_runtime_flags(parser: argparse.ArgumentParser, reads_files: bool = True) -> None:
    """Where and how it runs; `reads_files`: by processes of its own."""
    group = parser.add_argument_group("runtime")
    group.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda|mps|N", help="where it runs (default auto)"
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="of the backbone's products (default auto: fp16 on a GPU, bf16 on a CPU that has it in "
        "hardware, else fp32)",
    )
    if reads_files:
        group.add_argument(
            "--workers", type=whole(0, 64), metavar="N", help="processes that load images (default: by cores)"
        )
    group.add_argument(
        "--threads",
        type=whole(1, 1024),
        metavar="N",
        help="threads that compute on a CPU; another number may change the last bits (default: by "
        "OMP_NUM_THREADS, which torchrun sets to 1, else by cores)",
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_preset_flag(parser: argparse._ActionsContainer) -> None:
    """The flag itself; `take_preset` fills what it stands for."""
    listed = "; ".join(f"{name}: {preset.words}" for name, preset in PRESETS.items())
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help=f"{', '.join(PRESETS)}; a backbone with its layers and image size ({listed}). The "
        "values are printed; flags that are given explicitly override them",
    )


def take_preset(args: argparse.Namespace) -> None:
    """Fills what `--preset` sets and no flag gave, and logs it."""
    if args.preset is None:
        return
    before = vars(args)
    filled = {name: value for name, value in PRESETS[args.preset].settings.items() if before[name] is None}
    logger.info("preset %s: %s", args.preset, in_flags(filled))
    for name, value in filled.items():
        setattr(args, name, value)
