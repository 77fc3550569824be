"""Options, each declared once as a dataclass field: its metadata define the values that flags take and files
hold, and the name of a run's folder. Flags (fdsl/flags/groups.py), checks of stored files, the identity and
the name of a run (fdsl/evaluation/run_name.py), the ablation grid and the keywords of the Python interface
follow from it (docs/extending.md)."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from utils.errors import ConfigError
from utils.text import in_words, one_line

Stored = TypeVar("Stored")
LONGEST_TEXT = 1024  # characters of a stored model, path or name
NO_NAME = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of pairs that stand for no byte of a name
INLINE = {"inline": True}  # metadata of a field whose dataclass is stored among the values of the outer one
# What an option may need to have an effect: local windows, trained heads, a method that searches for nearest
# patches, one with components, text. fdsl/config/resolve.py decides which of them a configuration has.
WINDOWS, HEADS, SEARCH, COMPONENTS, TEXT = "windows", "heads", "search", "components", "text"


@dataclass(frozen=True)
class Option:
    """The declaration of an option. `name` and `default` are the field's; the default decides the kind: bool,
    int, float, text (or None), or a tuple of numbers or texts. `reads`: float, or what makes a value of text,
    where the default does not tell.

    help: of its flag; fdsl/flags/groups.py replaces `$name`. Without it the option is stored and has no flag.
    choices, span: the values that flags take and files hold: one of these, or numbers from low to high
    (`above`: without low). words: word that a flag takes -> value outside the span; "": the flag without a
    value. metavar: as of argparse. group: of the flags of --help, where it is not the class's. needs:
    WINDOWS, HEADS, ...: without it the option has no effect. short: its part of the name of a run's folder
    where the value is not the usual one, {} for the value; or value -> text. together: named with all others
    that are. place: it changes no result, as the place of a file, so it may differ between equal runs.
    trained: train.py takes it. fused: it combines or evaluates finished maps, so --from-maps may change it.
    several: it takes several values, of which each is one of a run. again: it may be given again, with other
    values. required: as of argparse. flag_name: of a flag that is not named like the field. research: only
    test.py has its flag, and train.py where `trained`.
    """

    default: Any
    reads: Callable[[str], Any] | None = None
    name: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()
    span: tuple[float, float] | None = None
    words: Mapping[str, Any] = field(default_factory=dict)
    metavar: str | None = None
    group: str = ""
    needs: str = ""
    short: str | Mapping[Any, str] | None = None
    together: bool = False
    place: bool = False
    trained: bool = False
    fused: bool = False
    several: bool = False
    again: bool = False
    above: bool = False
    required: bool = False
    flag_name: str = ""
    research: bool = False

    @property
    def flag(self) -> str:
        """The flag: --win-size."""
        return f"--{self.flag_name or self.name.replace('_', '-')}"

    @property
    def dest(self) -> str:
        """The name of its value in an argparse Namespace: win_size."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def many(self) -> bool:
        """Whether it holds several values."""
        return isinstance(self.default, tuple) and self.reads is None

    @property
    def kind(self) -> type:
        """The type of one value: bool, int, float or str."""
        if self.span is None:
            return bool if isinstance(self.default, bool) else str
        return float if self.reads is float or isinstance(self.default, float) else int

    def accepts(self, value: Any) -> bool:
        """Whether the option may have this value."""
        if self.many:
            several = type(value) is tuple and (len(value) > 0 or not self.default)
            return several and all(map(self._accepts_one, value))
        return self._accepts_one(value) or (value is None and self.default is None)

    def _accepts_one(self, value: Any) -> bool:
        if any(type(value) is type(one) and value == one for one in self.words.values()):
            return True
        if self.span is not None:
            low, high = self.span
            right = type(value) is int or (self.kind is float and type(value) is float)
            inside = right and (low < value if self.above else low <= value) and value <= high
            return inside or (right and value == self.default)
        if self.kind is bool:
            return type(value) is bool
        if self.choices:
            return value in self.choices
        return isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value

    @property
    def takes(self) -> str:
        """Its values in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.span is None:
            return "True or False" if self.kind is bool else "a tuple of texts" if self.many else "text"
        low, high = (f"{limit:g}" if self.kind is float else str(limit) for limit in self.span)
        what = "a number" if self.kind is float else "a whole number"
        what = "a tuple of whole numbers" if self.many else what
        return f"{what} {'above' if self.above else 'from'} {low} to {high}" + "".join(
            f", or {word}" for word in self.words if word
        )

    def refuse(self, value: Any) -> None:
        """ConfigError for a value that the option may not have."""
        if not self.accepts(value):
            raise ConfigError(f"{self.name} is {one_line(repr(value), 60)}, which is not {self.takes}.")

    def taken(self, value: Any) -> Any:
        """A given value as it is stored: several ones sorted, texts once each."""
        if self.many:
            if not isinstance(value, (list, tuple, set)):
                return value
            return tuple(sorted(value if self.span else set(value)))
        if self.kind is bool:
            return bool(value)
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        return self.words.get(value, value) if isinstance(value, str) else value

    def typed(self, value: Any) -> str:
        """A value as it is typed after the flag."""
        word = next((word for word, stands_for in self.words.items() if stands_for == value), None)
        return in_words(value) if word is None else word

    def as_flag(self, value: Any) -> str:
        """The flag with a value: --win-size 13."""
        if self.kind is bool:
            return f"{self.flag} {int(value)}" if self.default else self.flag
        return f"{self.flag} {self.typed(value)}".rstrip()


def option(default: Any, **facts: Any) -> Any:
    """A dataclass field that is an option; `facts`: those of `Option`."""
    return field(default=default, metadata={"option": Option(default, **facts)})


class Options:
    """Base of dataclasses of options: ConfigError for a value that no flag takes. `group`: the title of their
    flags in --help."""

    group: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, option in options_of(type(self)).items():
            option.refuse(getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Base of dataclasses of options that are flags and not stored. Not given, these flags have the fields'
    defaults; those of `Options` are None then: a checkpoint, a stored run or the defaults decide.

    `given`: the given flags of `Options` -> values.
    """

    group: ClassVar[str] = ""

    given: Mapping[str, Any] = field(default_factory=dict)


@cache
def options_of(kind: Any) -> Mapping[str, Option]:
    """Name -> option of the fields of a dataclass that are options, in their order."""
    declared = [one for one in fields(kind) if "option" in one.metadata]
    return {one.name: replace(one.metadata["option"], name=one.name) for one in declared}


def given_of(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `kind` that were given (not None), as they are stored."""
    options = options_of(kind).items()
    return {name: one.taken(given[name]) for name, one in options if given.get(name) is not None}


def nearest_name(name: str, names: Collection[str]) -> str:
    """`did you mean ...?` with the nearest of `names`, whatever dashes they begin with; "" where none is
    near."""
    plain = {one.lstrip("-"): one for one in names}
    near = difflib.get_close_matches(name.lstrip("-"), plain, n=1)
    return f"did you mean {plain[near[0]]}?" if near else ""


def named_options(
    config: Any, usual: Mapping[str, Any], without_effect: Collection[str] = (), whole: bool = False
) -> list[Option]:
    """The options of `config` whose value is not the `usual` one (or the default), except places and options
    that need one of `without_effect`. Options that are named `together` are all named where one of them is;
    `whole`: always."""
    acts = lambda one: one.help and not one.place and one.needs not in without_effect
    acting = {name: one for name, one in options_of(type(config)).items() if acts(one)}
    other = {name for name, one in acting.items() if getattr(config, name) != usual.get(name, one.default)}
    if whole or any(acting[name].together for name in other):
        other |= {name for name, one in acting.items() if one.together}
    return [one for name, one in acting.items() if name in other]


def flags_of(
    config: Any, usual: Mapping[str, Any], without_effect: Collection[str] = (), whole: bool = False
) -> list[str]:
    """The `named_options` as they are typed: `--win-size 13`."""
    named = named_options(config, usual, without_effect, whole)
    return [one.as_flag(getattr(config, one.name)) for one in named]


def as_stored(config: Any, places: bool = True) -> dict[str, Any]:
    """A dataclass, and those inside it, as JSON values; without `places` only options that decide results."""
    values: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            inner = as_stored(value, places)
            values |= inner if "inline" in one.metadata else {one.name: inner}
        elif places or "option" not in one.metadata or not one.metadata["option"].place:
            values[one.name] = list(value) if isinstance(value, tuple) else value
    return values


hints_of = cache(get_type_hints)


def from_stored(kind: type[Stored], stored: Any) -> Stored:
    """The dataclass that `as_stored` was given; ConfigError, a few words, for missing or unknown names, and
    for values of another type or that no flag takes."""
    if not isinstance(stored, Mapping):
        raise ConfigError(f"{one_line(repr(stored), 60)} is no {kind.__name__}")
    rest = dict(stored)
    config = _take_out(kind, rest)
    if rest:
        raise ConfigError(f"a {kind.__name__} has no {one_line(', '.join(map(str, rest)), 60)}")
    return config


def _take_out(kind: type[Stored], rest: dict[str, Any]) -> Stored:
    """`from_stored` of values that may hold more; its own are taken out."""
    values = {}
    hints = hints_of(kind)
    for one in fields(kind):
        hint = hints[one.name]
        inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if "inline" in one.metadata:
            values[one.name] = _take_out(hint, rest)
            continue
        if one.name not in rest:
            raise ConfigError(f"{one.name} is missing")
        value = rest.pop(one.name)
        if inner is not None and value is not None:
            value = from_stored(inner, value)
        elif "option" not in one.metadata and not is_of(hint, value):
            raise ConfigError(f"{one.name} is {one_line(repr(value), 60)}, which is of another type")
        values[one.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def is_of(hint: Any, value: Any) -> bool:
    """Whether a JSON value is of an annotated type; a tuple is stored as a list, numbers are those of 64 bits
    and finite, text can be a file's name, and a TypedDict or dataclass has no other keys."""
    return _check_of(hint)(value)


@cache
def _check_of(hint: Any) -> Callable[[Any], bool]:
    kind, parts = get_origin(hint), get_args(hint)
    checks = [_check_of(part) for part in parts if part is not Ellipsis]
    if is_typeddict(hint) or is_dataclass(hint):
        of_keys = {name: _check_of(part) for name, part in hints_of(hint).items()}
        needed = getattr(hint, "__required_keys__", of_keys.keys())
        return lambda value: (
            type(value) is dict
            and needed <= value.keys() <= of_keys.keys()
            and all(of_keys[name](one) for name, one in value.items())
        )
    if kind in (Union, UnionType):
        return lambda value: any(check(value) for check in checks)
    if kind is dict:
        return lambda value: type(value) is dict and all(map(checks[1], value.values()))
    if kind is tuple and Ellipsis not in parts:
        has_parts = lambda value: all(check(one) for check, one in zip(checks, value))
        return lambda value: type(value) is list and len(value) == len(checks) and has_parts(value)
    if kind in (list, tuple):
        return lambda value: type(value) is list and all(map(checks[0], value))
    if hint is float:
        return lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max
    if hint is int:
        return lambda value: type(value) is int and abs(value) <= sys.maxsize
    if hint is str:
        return lambda value: type(value) is str and not NO_NAME.search(value)
    return lambda value: type(value) is hint


def without(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The values except those of these names."""
    left_out = set(names)
    return {name: value for name, value in values.items() if name not in left_out}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of the values in which two differ, in alphabetical order."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
