"""Whose output folder it is: a program writes over nothing that another one wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.errors import ConfigError
from utils.files import read_json
from utils.text import printable

CONFIG = "config.json"  # of an output folder: it names the program that wrote it


def is_of(file: Path, made_by: str) -> bool:
    """Whether a JSON file names this program as its writer."""
    stored = read_json(file)
    return isinstance(stored, dict) and stored.get("made_by") == made_by


def refuse_foreign(folder: Path, names: Sequence[str], made_by: str) -> None:
    """ConfigError for a folder with files of these names that another program wrote."""
    others = [name for name in names if (folder / name).exists()]
    if others and not is_of(folder / CONFIG, made_by):
        raise foreign(folder, ", ".join(others), made_by)


def foreign(folder: Path, what: str, made_by: str) -> ConfigError:
    return ConfigError(
        f"--output {printable(folder)} holds {what}, which {made_by} did not write; name another folder."
    )
