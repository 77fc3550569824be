"""`--config FILE` and `--save-config FILE`: flags in a YAML file, with their values as typed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.errors import ConfigError
from utils.files import write_text
from utils.options import nearest_name
from utils.text import decoded, one_line, printable

if TYPE_CHECKING:
    from yaml import Node

FLAGS_ALONE = ("help", "help-all", "config", "save-config")  # never in a file
SECRETS = ("token",)  # never written
Words = list[Any]  # what is typed behind a flag; of one that may be given again a list for each time


class Setting(NamedTuple):
    """A flag's name, the words behind it, and its place: FILE line N."""

    name: str
    words: Words
    place: str


def add_settings_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings in a file")
    taken = "take flags from this YAML file; flags that are given win over it"
    group.add_argument("--config", type=Path, metavar="FILE", help=taken)
    written = "write the flags that were given, and those of --config, to this YAML file"
    group.add_argument("--save-config", type=Path, metavar="FILE", help=written)


def read_settings(file: Path, flags: Sequence[str], prog: str) -> list[Setting]:
    """The settings of a YAML file, each named like one of the `flags` of `prog`. ConfigError for a file that
    is not YAML, and for a name that is no flag."""
    yaml, name_of_file = _yaml("--config"), printable(file)
    try:
        root = yaml.compose(decoded(file.read_bytes()), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"--config {name_of_file} cannot be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--config {name_of_file} is no YAML ({one_line(error)})") from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"--config {name_of_file} holds no settings: write NAME: VALUE on each line")
    allowed, settings = [name for name in flags if name not in FLAGS_ALONE], {}
    for key, value in root.value:
        place = f"{name_of_file} line {key.start_mark.line + 1}"
        name = key.value.replace("_", "-") if isinstance(key.value, str) else "?"
        if name not in allowed:
            near = nearest_name(name, allowed)
            raise ConfigError(f"{place}: {one_line(name, 60)} is no setting of {prog}{near and f'; {near}'}")
        if name in settings:
            raise ConfigError(f"{place}: {name} stands there twice")
        words = _words(value)
        if words is None:
            raise ConfigError(f"{place}: {name} is neither a text, a number nor a list of these")
        settings[name] = Setting(name, words, place)
    return list(settings.values())


def write_settings(file: Path, typed: Mapping[str, Words], prog: str) -> list[str]:
    """Writes flags by their names to a YAML file that --config reads; returns the secret ones, which are left
    out."""
    yaml = _yaml("--save-config")

    class Plain(yaml.SafeDumper):  # type: ignore[name-defined, misc]
        """Every value is text, and needs no quotes to stay text."""

        yaml_implicit_resolvers: dict = {}

    value = lambda words: words[0] if len(words) == 1 and isinstance(words[0], str) else words
    written = {name: value(typed[name]) for name in typed if name not in (*FLAGS_ALONE, *SECRETS)}
    text = yaml.dump(written, Dumper=Plain, sort_keys=False, allow_unicode=True, width=100) if written else ""
    write_text(file, f"# {prog} --config {file.name}\n{text}")
    return [name for name in typed if name in SECRETS]


def _yaml(flag: str) -> Any:
    """PyYAML, which deploy/ does not need; ConfigError where it is missing."""
    try:
        import yaml
    except ImportError as error:
        raise ConfigError(f"{flag} needs the package pyyaml: pip install pyyaml") from error
    return yaml


def _words(node: Node) -> Words | None:
    """The words of a YAML value; None for a mapping."""
    if isinstance(node.value, str):
        return [node.value] if node.value else []
    if any(isinstance(one, tuple) for one in node.value):  # a mapping's pairs
        return None
    parts = [one.value if isinstance(one.value, str) else _words(one) for one in node.value]
    return None if None in parts else parts
