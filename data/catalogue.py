"""Datasets opened by name, and their counts as a table."""

from __future__ import annotations

import logging
from pathlib import Path

from tabulate import tabulate

from data.datasets import DATASETS, Counts, layout_of
from data.meta import read_meta
from data.records import Catalogue, Record
from utils.errors import DataError
from utils.log import warn
from utils.text import natural_key, printable

logger = logging.getLogger("fdsl")


def open_catalogue(dataset: str, root: str | Path, meta_file: str | Path | None = None) -> Catalogue:
    """The catalogue of a dataset (one of DATASETS): from meta_file, else root/meta.json, else by scanning.

    Writes nothing, so a read-only root will do. Raises DataError.
    """
    root = Path(root)
    if dataset not in DATASETS:
        raise DataError(f"--dataset {printable(dataset)}: is not known; choose one of {', '.join(DATASETS)}")
    if not root.is_dir():
        raise DataError(
            f"{printable(root)}: is not a folder; give the {dataset} dataset's root with --data-path DIR"
        )
    if meta_file is not None or (root / "meta.json").is_file():
        catalogue = read_meta(meta_file if meta_file is not None else root / "meta.json", root)
        if meta_file is None:
            _warn_of_unlisted_categories(catalogue, root)
        return catalogue
    catalogue = layout_of(dataset).scan(root)
    warn(catalogue.unused)
    return catalogue


def _warn_of_unlisted_categories(catalogue: Catalogue, root: Path) -> None:
    """Warns of folders that look like categories and are not in meta.json: datasets are often downloaded bit
    by bit."""
    listed = catalogue.categories
    unlisted = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name not in listed
        and ((entry / "train").is_dir() and (entry / "test").is_dir() or (entry / "Data" / "Images").is_dir())
    )
    if unlisted:
        logger.warning(
            "warning: %s lists %d of %d categories: %s left out; delete it or write it again.",
            root / "meta.json",
            len(listed),
            len(listed) + len(unlisted),
            ", ".join(map(printable, unlisted)),
        )


def describe_catalogue(catalogue: Catalogue, dataset: str) -> str:
    """A table of image and mask counts per category, split and defect; a column compares them with the
    dataset's official ones, if any: "complete" or "n of m"."""
    official = layout_of(dataset).official
    rows = []
    for category in catalogue.categories:
        counts = official.get(category)
        rows += _category_rows(catalogue, category, counts, "not an official category" if official else "")
    headers = ["category", "split", "defect", "images", "masks"] + (["official"] if official else [])
    table = tabulate(
        [row[: len(headers)] for row in rows],
        headers,
        disable_numparse=True,
        colalign=["left"] * 3 + ["right"] * 2 + ["left"] * (len(headers) - 5),
    )
    absent = [category for category in official if category not in catalogue.categories]
    if absent:
        present = f"{len(official) - len(absent)} of {len(official)} official categories"
        table += f"\n{present}; absent: {', '.join(absent)}"
    return table


def _category_rows(catalogue: Catalogue, category: str, counts: Counts | None, unofficial: str) -> list:
    """Rows of one category. `unofficial`: the status of a category without official counts."""

    def row(split: str, defect: str, records: list[Record], expected: int | None) -> list[str]:
        count = len(records)
        masks = str(sum(bool(r.mask_path) for r in records)) if any(r.anomalous for r in records) else "-"
        status = "" if expected is None else "complete" if count == expected else f"{count} of {expected}"
        return [printable(category), split, printable(defect), str(count), masks, status]

    rows = []
    train_normal, test_normal, test_anomalous = counts or (None, None, None)
    for split, records in catalogue.splits(category):
        normal = [r for r in records if not r.anomalous]
        anomalous = [r for r in records if r.anomalous]
        rows.append(row(split, "good", normal, train_normal if split == "train" else test_normal))
        defects = sorted({r.defect for r in anomalous}, key=natural_key)
        rows += [row(split, defect, [r for r in anomalous if r.defect == defect], None) for defect in defects]
        if split == "test" and len(defects) == 1:
            rows[-1] = row(split, defects[0], anomalous, test_anomalous)
        elif split == "test" and (defects or counts):
            rows.append(row(split, "(all defects)", anomalous, test_anomalous))
    if counts is None:
        rows[0][-1] = unofficial
    return rows
