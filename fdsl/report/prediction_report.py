"""What a prediction run shows: a picture per photograph, the contact sheet and the page that joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from markupsafe import Markup

from fdsl.config.decision import Threshold
from fdsl.report import charts, drawing
from fdsl.report.pages import script_of, templates, url_of
from fdsl.report.pictures import safe_name, write_image
from fdsl.store.blocks import FOLDERS
from fdsl.store.prediction_folder import Totals
from utils.files import whole_file

PICTURES, MASKS = FOLDERS
SHEET_CELLS = 60  # photographs on the contact sheet
SHEET_COLUMNS = 6
CELL = 220  # pixels
CELL_TEXT = 44
INSPECTION_PANELS = ("photograph", "heat map")
FILTERS = {"anomalous": "anomalous", "normal": "normal", "flipped": "flipped"}


def picture_name(name: str) -> str:
    """Where a photograph's picture lies in the output folder; two names never share one."""
    return f"{PICTURES}/{safe_name(name)}.jpg"


def mask_name(name: str) -> str:
    """Where a photograph's mask lies there."""
    return f"{MASKS}/{safe_name(name)}.png"


def write_contact_sheet(folder: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Writes contact_sheet.jpg: the pictures of `rows` (highest score first) that were written; False if none
    was."""
    cells = [(row, picture) for row in rows if (picture := _read(folder, row)) is not None][:SHEET_CELLS]
    if not cells:
        return False
    columns = min(SHEET_COLUMNS, len(cells))
    lines = -(-len(cells) // columns)
    sheet = np.full((lines * (CELL + CELL_TEXT), columns * CELL, 3), drawing.STRIP_BACKGROUND, np.uint8)
    texts = []
    for place, (row, picture) in enumerate(cells):
        top, left = place // columns * (CELL + CELL_TEXT), place % columns * CELL
        height, width = drawing.panel_size(picture.shape[0], picture.shape[1], CELL - 8)
        factor = min(1.0, (CELL - 8) / max(height, width))
        small = drawing.resize(picture, max(1, int(height * factor)), max(1, int(width * factor)))
        y, x = top + (CELL - small.shape[0]) // 2, left + (CELL - small.shape[1]) // 2
        sheet[y : y + small.shape[0], x : x + small.shape[1]] = small
        colour = drawing.PREDICTION_COLOUR if row["anomalous"] else drawing.TEXT_COLOUR
        verdict = {None: "", False: ", normal", True: ", anomalous"}[row["anomalous"]]
        verdict += f": {row['reason']}" if row["reason"] else ""
        texts += [
            (left + 4, top + CELL + 2, f"{row['score']:.4g}{verdict}", colour, CELL - 8),
            (left + 4, top + CELL + 21, row["image"], drawing.MUTED_COLOUR, CELL - 8),
        ]
    write_image(folder / "contact_sheet.jpg", drawing.write_on(sheet, texts))
    return True


def _read(folder: Path, row: Mapping[str, Any]) -> np.ndarray | None:
    if not row["picture"] or not (folder / row["picture"]).is_file():
        return None
    content = np.frombuffer((folder / row["picture"]).read_bytes(), np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR)
    return None if picture is None else picture[..., ::-1]


def write_prediction_report(
    folder: Path,
    totals: Totals,
    threshold: Threshold | None,
    facts: Sequence[tuple[str, str]],
    command: str,
    has_sheet: bool,
) -> None:
    """Writes report.html: the decision with a threshold that can be moved, a histogram of all scores, and the
    highest-scoring photographs with their pictures."""
    limit = None if threshold is None else threshold.score
    low, high = charts.score_range(totals.scores, limit)
    page = (
        templates()
        .get_template("prediction.html.j2")
        .render(
            **script_of(_data(totals, threshold, folder)),
            totals=totals,
            threshold=threshold,
            facts=facts,
            command=command,
            has_sheet=has_sheet,
            quote=quote,
            original=lambda row: original_of(row, folder),
            rows=totals.top,
            low=low,
            high=high,
            start=high if limit is None else limit,
            histogram=Markup(charts.scores_svg(totals.scores, limit)),
            chart_style=Markup(charts.STYLE),
            panel_names=INSPECTION_PANELS,
            filters=FILTERS,
            find="name",
        )
    )
    with whole_file(folder / "report.html", "wb") as file:
        file.write(page.encode("utf-8", "replace"))


def _data(totals: Totals, threshold: Threshold | None, folder: Path) -> dict[str, Any]:
    """What the page's script works with: the rows that are shown, and all scores."""
    rows = totals.top
    sizes = [
        drawing.panel_size(row.get("height", 1), row.get("width", 1), drawing.INSPECTION_SIDE) for row in rows
    ]
    category = {
        "name": "",
        "images": [row["image"] for row in rows],
        "labels": None,
        "reasons": [row["reason"] or "" for row in rows],
        "scores": [row["score"] for row in rows],
        "threshold": None if threshold is None else threshold.score,
        "all": np.sort(totals.scores).tolist(),
        "reasoned": totals.reasoned,
        "pictures": [row["picture"] and quote(row["picture"]) for row in rows],
        "originals": [original_of(row, folder) for row in rows],
        "sizes": [list(size) for size in sizes],
        "thumbnails": None,
        "references": [],
    }
    return {
        "categories": [category],
        "panels": INSPECTION_PANELS,
        "mode": len(INSPECTION_PANELS) - 1,
        "gap": drawing.PANEL_GAP,
        "curve": [],
        "histogram": [charts.LEFT, charts.RIGHT, *charts.HISTOGRAM_SIZE],
    }


def original_of(row: Mapping[str, Any], folder: Path) -> str | None:
    """The address of a row's photograph beside the report; None where it is no file of its own."""
    return url_of(Path(row["path"]), folder) if row.get("path") else None
