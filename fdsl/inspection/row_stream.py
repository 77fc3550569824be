"""Rows of test images as they come: counted, and printed as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from fdsl.inspection.score_files import Row
from fdsl.store.prediction_folder import Totals
from utils.console import put_json
from utils.score_rows import LISTED_SKIPPED


def emit(rows: Iterable[Row], as_json: bool, keep_on: bool) -> Totals:
    """Goes through the rows and counts them; `as_json`: and prints them. Where the reader of what is printed
    has seen enough, it ends, or goes on without printing (`keep_on`)."""
    totals = Totals()
    for row in rows:
        totals.skipped += "error" in row
        totals.scored += "error" not in row
        totals.anomalous += bool(row.get("anomalous"))
        if "error" in row and len(totals.first_skipped) < LISTED_SKIPPED:
            totals.first_skipped.append((row["image"], row["error"]))
        if as_json and not put_json(row):
            if not keep_on:
                break
            as_json = False
    return totals


def print_rows(output: Path) -> None:
    """Prints the rows of a finished output folder."""
    with open(output / "scores.jsonl", encoding="utf-8") as lines:
        emit(map(json.loads, lines), as_json=True, keep_on=False)
