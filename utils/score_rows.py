"""The rows of scores.jsonl and scores.csv, which predict.py and deploy/inspect.py write alike."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, TypedDict

from utils.files import as_cell, parsed_json, write_csv
from utils.hot_regions import Box
from utils.options import is_of

LISTED_SKIPPED = 20  # lines about skipped files at the end of a run; skipped.csv has them all
MOST_PERCENTILE = 99.9  # that a few normal images can show
BOX_COLUMNS = ("x", "y", "width", "height", "area")
OF_IMAGE = ("image", "score", "normal_percentile", "threshold", "anomalous", "reason")
COLUMNS = (*OF_IMAGE, *BOX_COLUMNS, "boxes", "picture")


class RegionOfRow(TypedDict):
    """See fdsl/inspection/regions.py."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float
    centroid: tuple[float, float]
    major_axis: float
    minor_axis: float
    orientation: float
    mean: float
    outline: list[tuple[float, float]]


class FileOfRow(TypedDict):
    bytes: int
    modified: int
    digest: str


class BareRow(TypedDict):
    image: str
    score: float
    base_score: float
    window_score: float | None
    normal_percentile: float | None
    threshold: float | None
    anomalous: bool | None
    reason: str | None
    boxes: list[Box]
    width: int
    height: int
    grid: int
    statistics: tuple[float, float, float] | None
    picture: str | None


class Row(BareRow, total=False):
    """A line of scores.jsonl, as JSON holds it; `row_of` makes the keys that every row has."""

    pixel_threshold: float | None
    regions: list[RegionOfRow]
    mask: str | None
    path: str
    file: FileOfRow
    maps: str
    check: str


def parsed_row(text: str | bytes) -> dict[str, Any] | None:
    """The row that a line holds; None for anything else."""
    try:
        row = parsed_json(text)
    except ValueError:
        return None
    return row if is_of(Row, row) else None


def row_of(name: str, prediction: Any) -> dict[str, Any]:
    """A photograph's row of scores.jsonl, boxes in its own pixels. `prediction`: a fdsl.Prediction, or an
    object with its fields. Of its statistics the first three, which utils/drift.py follows."""
    return {
        "image": name,
        "score": prediction.score,
        "base_score": prediction.base_score,
        "window_score": prediction.window_score,
        "normal_percentile": _capped(prediction.normal_percentile),
        "threshold": prediction.threshold,
        "anomalous": prediction.is_anomalous,
        "reason": prediction.reason or None,
        "boxes": [asdict(box) for box in prediction.boxes],
        "width": prediction.size[0],
        "height": prediction.size[1],
        "grid": len(prediction.patch_map),
        "statistics": None if prediction.statistics is None else prediction.statistics[:3].tolist(),
        "picture": None,
    }


def _capped(percentile: float | None) -> float | None:
    """A percentile of normal images to four digits; MOST_PERCENTILE stands for all above it."""
    return None if percentile is None else float(f"{min(percentile, MOST_PERCENTILE):.4g}")


def cells_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row of scores.csv by column: of the boxes the hottest one, and their number. The scores
    of both branches are only in scores.jsonl."""
    hottest = row["boxes"][0] if row["boxes"] else {}
    named = {name: hottest.get(name) if name in BOX_COLUMNS else row[name] for name in COLUMNS}
    return {**named, "image": as_cell(row["image"]), "boxes": len(row["boxes"])}


def filled_columns(row: Mapping[str, Any]) -> set[str]:
    """The columns in which a row has a value; scores.csv has no column that no row fills."""
    return {name for name, value in cells_of(row).items() if value is not None}


def write_scores(out: IO[str], rows: Iterable[Mapping[str, Any]], filled: Container[str]) -> None:
    """Writes scores.csv with the `filled` columns."""
    columns = [name for name in COLUMNS if name in filled]
    write_csv(out, columns, ([cells[name] for name in columns] for cells in map(cells_of, rows)))


def skipped_summary(count: int, first: Sequence[tuple[str, str]], file: Path | None) -> list[str]:
    """Lines about `count` skipped files: name and reason of the `first` LISTED_SKIPPED, and the `file` that
    lists all (None: no such file)."""
    if not count:
        return []
    lines = [f"{count} file(s) skipped:", *(f"  {name}: {reason}" for name, reason in first[:LISTED_SKIPPED])]
    if count > LISTED_SKIPPED:
        lines.append(f"  and {count - LISTED_SKIPPED} more{f' (all in {file})' if file else ''}")
    return lines
