"""`--ablate winmode=nan,mul use-nam=0,1`: from one command line to the flags of every combination."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from fdsl.config.contradictions import OF_DETECTORS
from fdsl.config.resolve import given_settings
from fdsl.config.run_config import RunConfig
from utils.command_line import CommandLine, name_part
from utils.options import CommandOptions, nearest_name, option, options_of

Settings = dict[str, list[str]]  # name of a setting -> its values as they were typed
ABLATED = (
    *("method", *OF_DETECTORS),
    *(one.dest for one in options_of(RunConfig).values() if one.help and not (one.several or one.place)),
)
OWN_FLAGS = {"k-shot": "--k-shot 1 2 4", "seed": "--seed 14 15", "checkpoint": "--checkpoint A B"}
TABLE = "ablation"
TOGETHER = "+"  # between the parts of one value: layers=6+12,24


@dataclass(frozen=True, kw_only=True)
class AblationOptions(CommandOptions):
    """The settings that are varied, and the names of the tables that they end in."""

    group: ClassVar[str] = "ablations"

    ablate: Sequence[Sequence[str]] | None = option(
        None,
        several=True,
        again=True,
        metavar="NAME=V1,V2",
        help="a run for each combination of these values; for instance winmode=nan,mul "
        f"use-nam=0,1 (parts of one value are joined by {TOGETHER}: layers=6+12,24), and a table of all; "
        "what shares the backbone's work is encoded once. Given again: more combinations, with a table of "
        "their own",
    )
    table: Sequence[str] | None = option(
        None,
        reads=name_part,
        several=True,
        metavar="NAME",
        help="name of the results table RESULTS/MODEL/DATASET/NAME.md, .csv and .json, one for each --ablate "
        "(default ablation; of several ablation_SETTING); without --ablate: of shots and checkpoints",
    )


def read_tables(args: argparse.Namespace, parser: CommandLine) -> dict[str, Settings]:
    """Name of a table -> its settings and their values, in the order of `--ablate`; without any, the name
    that a table of checkpoints alone would have. Ends as for any flag where one cannot be."""
    tables = [_read_settings(texts, parser) for texts in args.ablate or ()] or [{}]
    for name in set.intersection(*map(set, tables)):
        if getattr(args, name.replace("-", "_")) is not None:
            parser.error(f"--ablate {name} and --{name} both say it: leave one of them out")
    usual = [TABLE] if len(tables) == 1 else [f"{TABLE}_{'_'.join(settings)}" for settings in tables]
    names = args.table or usual
    if len(names) != len(tables) or len(set(names)) < len(names):
        parser.error(f"there are {len(tables)} tables: give --table as many names, each another")
    return dict(zip(names, tables))


def _read_settings(texts: Sequence[str], parser: CommandLine) -> Settings:
    """The settings of one `--ablate` and their values."""
    settings: Settings = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("_", "-")
        if not equals or not name or not values:
            parser.error(f"--ablate {text}: give NAME=VALUE,VALUE, for instance use-nam=0,1")
        _refuse_name(name, parser)
        if name in settings:
            parser.error(f"--ablate names {name} twice: give all its values at once, {name}=V1,V2")
        settings[name] = list(dict.fromkeys(values.split(",")))
        for value in settings[name]:
            _value_of(name, value, parser)
    return settings


def combinations(
    args: argparse.Namespace, settings: Settings, parser: CommandLine
) -> list[argparse.Namespace]:
    """The flags of each combination, in the order of the values. `combination` holds its settings, name by
    name as typed ("" where one has no use for it)."""
    if not settings:
        return [argparse.Namespace(**vars(args), combination={})]
    return [_with(args, dict(zip(settings, values)), parser) for values in product(*settings.values())]


def as_text(args: argparse.Namespace, but_for: tuple[str, ...] = ()) -> str:
    """All that the flags say, as a text that two namespaces share only where they say the same."""
    return repr(sorted((name, repr(value)) for name, value in vars(args).items() if name not in but_for))


def _refuse_name(name: str, parser: CommandLine) -> None:
    if name in OWN_FLAGS:
        parser.error(f"--ablate {name}: it has a flag of its own for several values, {OWN_FLAGS[name]}")
    attribute = name.replace("-", "_")
    if attribute not in ABLATED:
        names = [one.replace("_", "-") for one in ABLATED]
        near = nearest_name(name, names) or f"there are {', '.join(names)}"
        parser.error(f"--ablate {name}: there is no such setting; {near}")


def _value_of(name: str, text: str, parser: CommandLine) -> Any:
    """A setting's value as its flag reads it; None where it leaves the flag out."""
    action, place = parser.flag(name), f"--ablate {name}={text}"
    if action.nargs == 0:
        if text not in ("0", "1"):
            parser.error(f"{place}: give 0 (without it) or 1 (with it)")
        return True if text == "1" else None
    if action.nargs == "+":
        return parser.read(action, text.split(TOGETHER), place) if text else None
    if not text:
        parser.error(f"--ablate {name}: one of its values is empty")
    return parser.read(action, [text], place)


def _with(args: argparse.Namespace, values: Mapping[str, str], parser: CommandLine) -> argparse.Namespace:
    """The flags of one combination, without those that it has no use for."""
    one = argparse.Namespace(**vars(args))
    for name, value in values.items():
        setattr(one, parser.flag(name).dest, _value_of(name, value, parser))
    unused = _without_use(one)
    one.combination = {
        name: "" if name.replace("-", "_") in unused else value for name, value in values.items()
    }
    return one


def _without_use(args: argparse.Namespace) -> set[str]:
    """Takes out the flags that the rest has no use for, again and again, as one may hang on another; returns
    their names."""
    taken: set[str] = set()
    values = vars(args)
    while names := [name for name in given_settings(values).without_effect() if values[name] is not None]:
        values.update(dict.fromkeys(names))
        taken.update(names)
    return taken
