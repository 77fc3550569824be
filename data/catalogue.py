"""The datasets there are: opened by their names, and described as a table."""

from __future__ import annotations

import logging
from pathlib import Path

from data.counts import table_of_counts
from data.datasets import DATASETS, layout_of
from data.meta import read_meta
from data.records import Catalogue
from utils.errors import DataError
from utils.log import warn
from utils.text import printable

logger = logging.getLogger("fdsl")


def open_catalogue(dataset: str, root: str | Path, meta_file: str | Path | None = None) -> Catalogue:
    """The catalogue of a dataset (one of DATASETS): from meta_file, else root/meta.json, else by scanning.

    Nothing is written, so a read-only root will do. Raises DataError.
    """
    root = Path(root)
    if dataset not in DATASETS:
        raise DataError(f"--dataset {printable(dataset)}: is not known; choose one of {', '.join(DATASETS)}")
    if not root.is_dir():
        raise DataError(
            f"{printable(root)}: is not a folder; give the {dataset} dataset's root with --data-path DIR"
        )
    if meta_file is not None or (root / "meta.json").is_file():
        found = read_meta(meta_file if meta_file is not None else root / "meta.json", root)
        if meta_file is None:
            _warn_of_categories_beside(found, root)
        return found
    found = layout_of(dataset).scan(root)
    warn(found.unused)
    return found


def _warn_of_categories_beside(found: Catalogue, root: Path) -> None:
    """Logs folders that look like categories and are not in meta.json: datasets are often completed bit
    by bit."""
    unlisted = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name not in {*found.train, *found.test}
        and ((entry / "train").is_dir() and (entry / "test").is_dir() or (entry / "Data" / "Images").is_dir())
    )
    if unlisted:
        logger.warning(
            "warning: %s lists %d of %d categories: %s left out; delete it or write it again.",
            root / "meta.json",
            len({*found.train, *found.test}),
            len({*found.train, *found.test}) + len(unlisted),
            ", ".join(map(printable, unlisted)),
        )


def describe_catalogue(catalogue: Catalogue, dataset: str) -> str:
    """A table of image and mask counts per category, split and defect, with the dataset's official counts
    where it has some."""
    return table_of_counts(catalogue, layout_of(dataset).official)
