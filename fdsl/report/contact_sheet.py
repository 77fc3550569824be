"""Contact sheets: many photographs on one picture, each with two lines of text below it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from fdsl.report import drawing
from fdsl.report.category_view import CategoryView

CELLS_PER_BLOCK = 12
COLUMNS = 4
SIDE = 192  # of each of a cell's two panels, pixels
WIDTH = 2 * SIDE  # of a cell
GAP = 14
TEXT_HEIGHT = 46
HEADING_HEIGHT = 54
HEADING_SIZE = 20


class Cell(NamedTuple):
    """A picture (h,w,3) uint8 RGB of at most SIDE x WIDTH, the two lines below it, and whether the first one
    stands out."""

    picture: np.ndarray
    first: str
    second: str
    is_marked: bool


def contact_sheet(blocks: Sequence[tuple[str, Sequence[Cell]]]) -> np.ndarray:
    """Blocks of cells below their headings."""
    columns = min(COLUMNS, max(len(cells) for _, cells in blocks))
    width, rows = columns * (WIDTH + GAP) + GAP, []
    for heading, cells in blocks:
        band = np.full((HEADING_HEIGHT, width, 3), drawing.STRIP_BACKGROUND, np.uint8)
        text = (GAP, 16, heading, drawing.TEXT_COLOUR, width - 2 * GAP)
        rows.append(drawing.write_on(band, [text], HEADING_SIZE))
        rows += [_row(cells[start : start + columns], width) for start in range(0, len(cells), columns)]
    return np.concatenate(rows, axis=0)


def _row(cells: Sequence[Cell], width: int) -> np.ndarray:
    row = np.full((SIDE + TEXT_HEIGHT + GAP, width, 3), drawing.STRIP_BACKGROUND, np.uint8)
    texts = []
    for column, (picture, first, second, is_marked) in enumerate(cells):
        left = GAP + column * (WIDTH + GAP)
        height, across = picture.shape[:2]
        top, start = (SIDE - height) // 2, left + (WIDTH - across) // 2
        row[top : top + height, start : start + across] = picture
        colour = drawing.PREDICTION_COLOUR if is_marked else drawing.TEXT_COLOUR
        texts.append((left + 4, SIDE + 5, first, colour, WIDTH - 8))
        texts.append((left + 4, SIDE + 24, second, drawing.MUTED_COLOUR, WIDTH - 8))
    return drawing.write_on(row, texts)


def read_picture(file: Path) -> np.ndarray:
    """A picture that was written before, (h,w,3) uint8 RGB."""
    return np.asarray(cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR))[..., ::-1]


def ranked_choice(
    labels: np.ndarray, scores: np.ndarray, most: int
) -> tuple[list[int], list[int], list[int]]:
    """Indices of the worst misses (defects, lowest score first), the worst false alarms (normal images,
    highest first) and a sample of the rest, evenly spread over the scores: at most a third of `most` each for
    the first two."""
    order = np.argsort(scores, kind="stable")
    share = -(-most // 3)
    misses = [int(index) for index in order if labels[index]][:share]
    alarms = [int(index) for index in order[::-1] if not labels[index]][:share]
    chosen = set(misses) | set(alarms)
    rest = [int(index) for index in order[::-1] if int(index) not in chosen]
    room = min(len(rest), max(0, most - len(chosen)))
    spread = np.linspace(0, len(rest) - 1, room).round().astype(int)
    return misses, alarms, [rest[position] for position in spread]


def category_sheet(summary: CategoryView) -> np.ndarray:
    """The worst misses, the worst false alarms and a sample of the rest of a category, from its thumbnails:
    ground truth and heat map of each image."""
    low, high = summary.scale
    misses, alarms, rest = ranked_choice(summary.labels, summary.scores, 3 * CELLS_PER_BLOCK)
    blocks = [
        ("Defects with the lowest scores", misses),
        ("Normal images with the highest scores", alarms),
        ("A sample of the rest, highest scores first", rest),
    ]
    title = f"{summary.name}: ground truth, and heat map on one scale ({low:.4g} to {high:.4g})"
    cells = [(heading, [_cell(summary, index) for index in chosen]) for heading, chosen in blocks if chosen]
    return contact_sheet([(title, []), *cells])


def _cell(summary: CategoryView, index: int) -> Cell:
    thumbnail = read_picture(summary.thumbnail(summary.files[index]))
    _, truth, heat, _ = np.split(thumbnail, len(drawing.PANEL_NAMES), axis=1)
    score, threshold, label = summary.scores[index], summary.score_threshold, summary.labels[index]
    is_wrong = threshold is not None and (score >= threshold) != label
    verdict = "" if not is_wrong else ", missed" if label else ", false alarm"
    return Cell(
        np.concatenate([truth, heat], axis=1),
        f"{score:.{summary.digits}g}, {summary.defects[index] if label else 'normal'}{verdict}",
        summary.image_paths[index].rsplit("/", 1)[-1],
        is_wrong,
    )
