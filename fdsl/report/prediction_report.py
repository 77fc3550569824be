"""What a prediction run shows: a picture per photograph, the contact sheet and the page that joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from fdsl.config.run_config import Threshold
from fdsl.report import charts, drawing
from fdsl.report.contact_sheet import SIDE, WIDTH, Cell, contact_sheet, read_picture
from fdsl.report.pages import url_of, write_page
from fdsl.report.pictures import CONTACT_SHEET, safe_name, write_image
from fdsl.store.journal import Totals
from fdsl.store.prediction_folder import FOLDERS
from utils.numbers import digits_of

PICTURES, MASKS = FOLDERS
SHEET_CELLS = 60  # photographs on the contact sheet
INSPECTION_PANELS = ("photograph", "heat map")
FILTERS = ("anomalous", "normal", "flipped")


def picture_name(name: str) -> str:
    """Where a photograph's picture lies in the output folder; two names never share one."""
    return f"{PICTURES}/{safe_name(name)}.jpg"


def mask_name(name: str) -> str:
    """Where a photograph's mask lies there."""
    return f"{MASKS}/{safe_name(name)}.png"


def write_contact_sheet(folder: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Writes contact_sheet.jpg: the pictures of `rows` (highest score first) that were written; False if none
    was."""
    cells: list[Cell] = []
    digits = digits_of(row["score"] for row in rows)
    drawn = (row for row in rows if row["picture"] and (folder / row["picture"]).is_file())
    for row in islice(drawn, SHEET_CELLS):
        panels = read_picture(folder / row["picture"])[: -drawing.CAPTION_HEIGHT]
        factor = min(SIDE / panels.shape[0], WIDTH / panels.shape[1])
        height, width = (max(1, int(side * factor)) for side in panels.shape[:2])
        verdict = {None: "", False: ", normal", True: ", anomalous"}[row["anomalous"]]
        line = f"{row['score']:.{digits}g}{verdict}{': ' if row['reason'] else ''}{row['reason'] or ''}"
        small = drawing.resize(panels, height, width)
        cells.append(Cell(small, line, row["image"], bool(row["anomalous"])))
    if cells:
        write_image(folder / CONTACT_SHEET, contact_sheet([("Highest scores first", cells)]))
    return bool(cells)


def write_prediction_report(
    folder: Path,
    totals: Totals,
    threshold: Threshold | None,
    facts: Sequence[tuple[str, str]],
    trust: str,
    command: str,
    has_sheet: bool,
) -> None:
    """Writes report.html: the decision with a threshold that can be moved and `trust` (how far it holds), a
    histogram of all scores, and the highest-scoring photographs with their pictures."""
    limit = None if threshold is None else threshold.score
    count = f"{totals.scored:,}"
    write_page(
        folder / "report.html",
        "prediction.html.j2",
        _data(totals, limit, folder),
        kind="inspection",
        title=f"{count} photographs" if limit is None else f"{totals.anomalous:,} of {count} anomalous",
        totals=totals,
        threshold=threshold,
        facts=facts,
        trust=trust,
        command=command,
        has_sheet=has_sheet,
        digits=digits_of([*(row["score"] for row in (*totals.top, *totals.sample)), limit]),
        original=lambda row: original_of(row, folder),
        scale=charts.score_range(totals.scores, limit),
        chart=Markup(charts.histogram_svg(totals.scores, None, limit)),
        panel_names=INSPECTION_PANELS,
        filters=dict(zip(FILTERS, FILTERS)),
        find="name",
    )


def _data(totals: Totals, limit: float | None, folder: Path) -> dict[str, Any]:
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
        "threshold": limit,
        "digits": digits_of([*(row["score"] for row in rows), limit]),
        "all": np.sort(totals.scores).tolist(),
        "reasoned": totals.reasoned,
        "pictures": [row["picture"] and quote(row["picture"]) for row in rows],
        "originals": [original_of(row, folder) for row in rows],
        "sizes": [list(size) for size in sizes],
        "thumbnails": None,
        "references": [],
    }
    return {"categories": [category], "panels": INSPECTION_PANELS, "mode": len(INSPECTION_PANELS) - 1}


def original_of(row: Mapping[str, Any], folder: Path) -> str | None:
    """The address of a row's photograph beside the report; None where it is no file of its own."""
    return url_of(Path(row["path"]), folder) if row.get("path") else None
