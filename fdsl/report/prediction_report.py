"""What a prediction run shows: a picture per photograph, the contact sheet and the page that joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from fdsl.boxes import Box
from fdsl.config.decision import Threshold
from fdsl.report import charts, drawing
from fdsl.report.pages import templates
from fdsl.report.pictures import safe_name, write_image
from fdsl.store.prediction_folder import Totals
from utils.files import whole_file

PICTURES = "pictures"
SHEET_CELLS = 60  # photographs on the contact sheet and with a thumbnail on the page
SHEET_COLUMNS = 6
CELL = 220  # pixels
CELL_TEXT = 44
BOX_COLOUR = (64, 224, 208)
BARS = 40  # of the histogram


def picture_name(name: str) -> str:
    """Where a photograph's picture lies in the output folder; two names never share one."""
    return f"{PICTURES}/{safe_name(name)}.jpg"


def draw_prediction(
    photo: np.ndarray, anomaly_map: np.ndarray, boxes: Sequence[Box], scale: tuple[float, float]
) -> np.ndarray:
    """The heat map (H,W) and the boxes over the photograph (H,W,3) uint8 RGB, at its own size."""
    picture = drawing.heat(photo, anomaly_map, scale, drawing.ALONE)
    thickness = max(1, round(max(photo.shape[:2]) / 300))
    for box in boxes:
        corners = (box.x, box.y), (box.x + box.width - 1, box.y + box.height - 1)
        cv2.rectangle(picture, *corners, drawing.OUTLINE_SHADOW, thickness + 2)
        cv2.rectangle(picture, *corners, BOX_COLOUR, thickness)
    return picture


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
            (left + 4, top + CELL + 2, f"{row['score']:.4f}{verdict}", colour, CELL - 8),
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
    """Writes report.html: what was run, the decision, a histogram of all scores and the highest-scoring
    photographs."""
    page = (
        templates()
        .get_template("prediction.html.j2")
        .render(
            totals=totals,
            threshold=threshold,
            facts=facts,
            command=command,
            has_sheet=has_sheet,
            quote=quote,
            rows=totals.top,
            with_picture=SHEET_CELLS,
            histogram=_histogram(totals.scores, threshold),
        )
    )
    with whole_file(folder / "report.html", "wb") as file:
        file.write(page.encode("utf-8", "replace"))


def _histogram(scores: np.ndarray, threshold: Threshold | None) -> dict[str, Any]:
    """Bars (left, height in per cent, anomalous or not) over the scores' range, and where the threshold
    lies."""
    low, high = charts.score_range(scores, threshold.score if threshold else None)
    counts, edges = np.histogram(
        scores, charts.bin_edges(low, high, BARS, threshold.score if threshold else None)
    )
    line = None if threshold is None else 100 * (threshold.score - low) / (high - low)
    bars = [
        {
            "left": 100 * (edges[index] - low) / (high - low),
            "height": 100 * count / counts.max(),
            "count": int(count),
            "alarm": threshold is not None and edges[index] >= threshold.score,
        }
        for index, count in enumerate(counts)
        if count
    ]
    return {
        "low": low,
        "high": high,
        "bars": bars,
        "line": line,
        "width": 100 * (edges[1] - edges[0]) / (high - low),
    }
