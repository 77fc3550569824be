"""The names of all datasets. How to add one: docs/extending.md."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.layout import Layout

DATASETS = ("mvtec", "visa", "folder")


def layout_of(name: str) -> Layout:
    """The layout of data/NAME.py, one of DATASETS."""
    return import_module(f"data.{name}").LAYOUT
