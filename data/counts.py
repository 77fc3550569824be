"""How many images a catalogue has, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from tabulate import tabulate

from data.layout import NO_COUNTS, Counts
from data.records import Catalogue, Record
from utils.text import natural_key, printable


def table_of_counts(catalogue: Catalogue, official: Mapping[str, Counts] = NO_COUNTS) -> str:
    """A table of image and mask counts per category, split and defect; where there are `official` ones,
    with them: "complete" or "n of m"."""
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
        there = f"{len(official) - len(absent)} of {len(official)} official categories"
        table += f"\n{there}; absent: {', '.join(absent)}"
    return table


def _category_rows(catalogue: Catalogue, category: str, counts: Counts | None, unknown: str) -> list:
    def row(split: str, defect: str, part: list[Record], wanted: int | None) -> list[str]:
        masks = str(sum(bool(r.mask_path) for r in part)) if any(r.anomalous for r in part) else "-"
        status = "" if wanted is None else "complete" if len(part) == wanted else f"{len(part)} of {wanted}"
        return [printable(category), split, printable(defect), str(len(part)), masks, status]

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
