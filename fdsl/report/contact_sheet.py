"""The contact sheet of a category: worst misses, worst false alarms and a sample of the rest on one
picture."""

from __future__ import annotations

import cv2
import numpy as np

from fdsl.report import drawing
from fdsl.report.category_view import CategorySummary

CELLS_PER_BLOCK = 12
COLUMNS = 4
CELL_SIDE = 192  # of each of a cell's two panels, pixels
GAP = 14
TEXT_HEIGHT = 46
HEADING_HEIGHT = 54
ALARM_COLOUR = (255, 140, 96)


def ranked_choice(
    labels: np.ndarray, scores: np.ndarray, most: int
) -> tuple[list[int], list[int], list[int]]:
    """Indices of the worst misses (defects, lowest score first), the worst false alarms (good, highest first)
    and a sample of the rest, evenly spread over the scores: at most a third of `most` each for the first
    two."""
    scores = np.nan_to_num(scores)
    order = np.argsort(scores, kind="stable")
    share = -(-most // 3)
    misses = [int(index) for index in order if labels[index]][:share]
    alarms = [int(index) for index in order[::-1] if not labels[index]][:share]
    chosen = set(misses) | set(alarms)
    rest = [int(index) for index in order[::-1] if int(index) not in chosen]
    room = min(len(rest), max(0, most - len(chosen)))
    spread = np.linspace(0, len(rest) - 1, room).round().astype(int)
    return misses, alarms, [rest[position] for position in spread]


def contact_sheet(summary: CategorySummary) -> np.ndarray:
    """Draws the sheet from the thumbnails: per image the ground truth next to the heat map, score and name
    below."""
    misses, alarms, rest = ranked_choice(summary.labels, summary.scores, 3 * CELLS_PER_BLOCK)
    blocks = [
        ("Defects with the lowest scores", misses),
        ("Good images with the highest scores", alarms),
        ("A sample of the rest, highest scores first", rest),
    ]
    width = COLUMNS * (2 * CELL_SIDE + GAP) + GAP
    title = (
        f"{summary.name}: outline of the ground truth, and heat map on one scale ({summary.scale[0]:.3g} to "
        f"{summary.scale[1]:.3g})"
    )
    rows = [_heading(width, title, drawing.MUTED_COLOUR, 17)]
    for name, indices in blocks:
        if indices:
            rows.append(_heading(width, name, drawing.TEXT_COLOUR, 22))
            rows += [
                _row(summary, indices[start : start + COLUMNS], width)
                for start in range(0, len(indices), COLUMNS)
            ]
    return np.concatenate(rows, axis=0)


def _heading(width: int, text: str, colour: tuple[int, int, int], size: int) -> np.ndarray:
    band = np.full((HEADING_HEIGHT, width, 3), drawing.STRIP_BACKGROUND, np.uint8)
    return drawing.write_on(band, [(GAP, 16, text, colour, width - 2 * GAP)], size)


def _row(summary: CategorySummary, indices: list[int], width: int) -> np.ndarray:
    row = np.full((CELL_SIDE + TEXT_HEIGHT + GAP, width, 3), drawing.STRIP_BACKGROUND, np.uint8)
    texts = []
    for column, index in enumerate(indices):
        left = GAP + column * (2 * CELL_SIDE + GAP)
        truth, heat = _thumbnail_panels(summary, index)
        for offset, panel in ((0, truth), (CELL_SIDE, heat)):
            height, panel_width = panel.shape[:2]
            top, start = (CELL_SIDE - height) // 2, left + offset + (CELL_SIDE - panel_width) // 2
            row[top : top + height, start : start + panel_width] = panel
        score, threshold, label = summary.scores[index], summary.score_threshold, summary.labels[index]
        alarm = threshold is not None and score >= threshold
        verdict = "" if threshold is None or alarm == label else (", missed" if label else ", false alarm")
        name = summary.image_paths[index].rsplit("/", 1)[-1]
        texts += [
            (
                left + 4,
                CELL_SIDE + 5,
                f"{score:.4g}, {summary.defects[index]}{verdict}",
                ALARM_COLOUR if verdict else drawing.TEXT_COLOUR,
                2 * CELL_SIDE - 8,
            ),
            (left + 4, CELL_SIDE + 24, name, drawing.MUTED_COLOUR, 2 * CELL_SIDE - 8),
        ]
    return drawing.write_on(row, texts)


def _thumbnail_panels(summary: CategorySummary, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The ground truth and heat map panels of the image's thumbnail, as written."""
    content = np.frombuffer(summary.thumbnail(summary.files[index]).read_bytes(), np.uint8)
    picture = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR))[..., ::-1]
    parts = np.split(picture, len(drawing.PANEL_NAMES), axis=1)
    return parts[1], parts[2]
