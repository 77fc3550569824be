"""The names of all datasets, and what a dataset's own module declares. How to add one: docs/extending.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from data.records import Catalogue

DATASETS = ("mvtec", "visa", "folder")
Counts = tuple[int, int, int]  # normal training, normal test and anomalous test images


@dataclass(frozen=True)
class Layout:
    """How a dataset's files become a catalogue, and what is expected of them.

    name: as `--dataset` takes it. scan: from the root folder to the catalogue; raises DataError. official:
    category -> counts of the published dataset, if any. needs_masks: whether a defect without a mask is a
    fault.
    """

    name: str
    scan: Callable[..., Catalogue]
    official: Mapping[str, Counts] = field(default_factory=dict)
    needs_masks: bool = True


def layout_of(name: str) -> Layout:
    """The layout of data/NAME.py, one of DATASETS."""
    return import_module(f"data.{name}").LAYOUT
