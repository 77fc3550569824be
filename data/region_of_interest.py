"""The mask of what counts in each photograph, from --roi and --ignore, or as it is drawn on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data.images import open_image
from utils.config import MethodConfig
from utils.errors import DataError
from utils.text import printable

WHITE = 128  # grey values from here on are white
GREYS = (48, 207)  # what lies between is neither black nor white,
FINER = 4  # so many times finer is a drawn region before it is resized by area
MOST_GREY = 0.05  # and so much of a mask at most: a JPEG's edges, but no photograph


def read_roi(options: MethodConfig, side: int) -> np.ndarray | None:
    """(side, side) uint8, 255 where photographs are evaluated, from `options.roi` and `options.ignore`,
    resized by area; None without either. DataError for what is no mask, and where nothing is left."""
    given = {"--roi": options.roi, "--ignore": options.ignore}
    masks = {flag: _read(flag, Path(path), side) for flag, path in given.items() if path is not None}
    if not masks:
        return None
    inside = masks.get("--roi", np.full((side, side), 255, np.uint8)).astype(np.float32)
    outside = masks.get("--ignore", np.zeros((side, side), np.uint8)).astype(np.float32)
    left = np.rint(inside * (255 - outside) / 255).astype(np.uint8)
    if not left.any():
        flag, path = next((flag, path) for flag, path in given.items() if path is not None)
        raise DataError(f"{flag} {printable(path)}: leaves nothing to evaluate; {CURES[flag]}")
    return left


@dataclass(frozen=True)
class Shape:
    """A polygon, its corners (x, y) as shares of a photograph's width and height; `ignored`: what lies in it
    does not count, else what lies in it does."""

    points: tuple[tuple[float, float], ...]
    ignored: bool


def drawn_roi(shapes: Sequence[Shape], side: int) -> np.ndarray:
    """`read_roi` of shapes: what lies in one that counts (without such a one: all), but not in one that is
    ignored. DataError where nothing is left."""
    evaluated = [shape for shape in shapes if not shape.ignored]
    fine = FINER * side
    mask = Image.new("L", (fine, fine), 0 if evaluated else 255)
    pen = ImageDraw.Draw(mask)
    for shape in sorted(shapes, key=lambda shape: shape.ignored):
        pen.polygon([(x * fine, y * fine) for x, y in shape.points], fill=0 if shape.ignored else 255)
    found = np.asarray(mask.resize((side, side), Image.Resampling.BOX))
    if not found.any():
        raise DataError("the region of interest leaves nothing to evaluate; draw it larger, or ignore less")
    return found


CURES = {
    "--roi": "it is to be white where photographs are evaluated, and --ignore may not cover all of that",
    "--ignore": "it is to be black where photographs are evaluated",
}


def _read(flag: str, path: Path, side: int) -> np.ndarray:
    """The mask in a file, (side, side) uint8: 255 where a pixel is white all over."""
    if path.is_dir():
        raise DataError(f"{flag} {printable(path)}: is a folder; give one mask, which counts for all images")
    try:
        grey = np.asarray(open_image(path).convert("L"))
    except DataError as error:
        raise DataError(f"{flag} {error}") from error
    share = float(((grey > GREYS[0]) & (grey < GREYS[1])).mean())
    if share > MOST_GREY:
        raise DataError(
            f"{flag} {printable(path)}: {share:.0%} of it is neither black nor white, so it is no mask; "
            "give a black and white image"
        )
    white = Image.fromarray(((grey >= WHITE) * 255).astype(np.uint8))
    return np.asarray(white.resize((side, side), Image.Resampling.BOX))
