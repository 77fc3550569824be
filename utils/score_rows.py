"""A row of scores.jsonl and of scores.csv, as predict.py and deploy/inspect.py write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from utils.files import as_file

BOX_COLUMNS = ("x", "y", "width", "height", "area")
COLUMNS = (
    "image",
    "score",
    "normal_percentile",
    "threshold",
    "anomalous",
    "reason",
    *BOX_COLUMNS,
    "boxes",
    "picture",
)


def row_of(name: str, found: Any) -> dict[str, Any]:
    """A photograph's line of scores.jsonl, boxes in its own pixels. `found`: a fdsl.Prediction, or what
    has its fields."""
    return {
        "image": name,
        "score": found.score,
        "base_score": found.base_score,
        "window_score": found.window_score,
        "normal_percentile": found.normal_percentile,
        "threshold": found.threshold,
        "anomalous": found.is_anomalous,
        "reason": found.reason or None,
        "boxes": [asdict(box) for box in found.boxes],
        "width": found.size[0],
        "height": found.size[1],
        "grid": len(found.patch_map),
        "picture": None,
    }


def csv_row(row: Mapping[str, Any]) -> list[Any]:
    """A row of scores.csv: of the boxes the hottest one, and how many there are; the scores of both branches
    are in scores.jsonl alone."""
    first = row["boxes"][0] if row["boxes"] else {}
    return [
        as_file(row["image"]),
        *(row[name] for name in COLUMNS[1:4]),
        None if row["anomalous"] is None else str(row["anomalous"]).lower(),  # as in JSON
        row["reason"],
        *(first.get(name) for name in BOX_COLUMNS),
        len(row["boxes"]),
        row["picture"],
    ]
