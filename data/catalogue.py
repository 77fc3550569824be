"""A dataset's catalogue: opened by its name, and described as a table."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

from tabulate import tabulate

from data.meta import read_meta
from data.records import Catalogue, Record
from utils.errors import DataError
from utils.text import natural_key, shown

logger = logging.getLogger("fdsl")

DATASETS = ("mvtec", "visa", "folder")


def open_catalogue(dataset: str, root: str | Path, meta_file: str | Path | None = None) -> Catalogue:
    """The catalogue of a dataset ("mvtec", "visa" or "folder"): from meta_file, else root/meta.json, else by
    scanning.

    Nothing is written, so a read-only root will do. Raises DataError.
    """
    root = Path(root)
    if dataset not in DATASETS:
        raise DataError(f"--dataset {shown(dataset)}: is not known; choose one of {', '.join(DATASETS)}")
    if not root.is_dir():
        raise DataError(
            f"{shown(root)}: is not a folder; give the {dataset} dataset's root with --data-path DIR"
        )
    if meta_file is not None or (root / "meta.json").is_file():
        found = read_meta(meta_file if meta_file is not None else root / "meta.json", root)
        if meta_file is None:
            _warn_of_categories_beside(found, root)
        return found
    return importlib.import_module(f"data.{dataset}").scan(root)


def _warn_of_categories_beside(found: Catalogue, root: Path) -> None:
    """Says which folders look like categories that meta.json does not know: datasets are often completed bit
    by bit."""
    beside = sorted(
        folder.name
        for folder in root.iterdir()
        if folder.name not in {*found.train, *found.test}
        and (
            (folder / "train").is_dir()
            and (folder / "test").is_dir()
            or (folder / "Data" / "Images").is_dir()
        )
    )
    if beside:
        logger.warning(
            "warning: %s lists %d of %d categories: %s left out; delete it or write it again.",
            root / "meta.json",
            len({*found.train, *found.test}),
            len({*found.train, *found.test}) + len(beside),
            ", ".join(map(shown, beside)),
        )


def describe_catalogue(catalogue: Catalogue, dataset: str) -> str:
    """A table of image and mask counts per category, split and defect; for "mvtec" and "visa" beside the
    official counts: "complete" or "n of m"."""
    official = {} if dataset == "folder" else importlib.import_module(f"data.{dataset}").OFFICIAL_COUNTS
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
        table += f"\n{len(official) - len(absent)} of {len(official)} official categories; absent: {', '.join(absent)}"
    return table


def _category_rows(
    catalogue: Catalogue, category: str, counts: tuple[int, int, int] | None, unknown: str
) -> list:
    def row(split: str, defect: str, part: list[Record], wanted: int | None) -> list[str]:
        masks = str(sum(bool(r.mask_path) for r in part)) if any(r.anomalous for r in part) else "-"
        status = "" if wanted is None else "complete" if len(part) == wanted else f"{len(part)} of {wanted}"
        return [shown(category), split, shown(defect), str(len(part)), masks, status]

    rows = []
    train_good, test_good, test_anomalous = counts or (None, None, None)
    for split, records in catalogue.splits(category):
        normal = [r for r in records if not r.anomalous]
        anomalous = [r for r in records if r.anomalous]
        rows.append(row(split, "good", normal, train_good if split == "train" else test_good))
        defects = sorted({r.defect for r in anomalous}, key=natural_key)
        rows += [row(split, defect, [r for r in anomalous if r.defect == defect], None) for defect in defects]
        if split == "test" and len(defects) == 1:
            rows[-1] = row(split, defects[0], anomalous, test_anomalous)
        elif split == "test" and (defects or counts):
            rows.append(row(split, "(all defects)", anomalous, test_anomalous))
    if counts is None:
        rows[0][-1] = unknown
    return rows
