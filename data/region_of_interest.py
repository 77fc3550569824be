"""The mask of what counts in each photograph, from --roi and --ignore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from data.images import open_image
from utils.config import MethodConfig
from utils.errors import DataError
from utils.text import printable

WHITE = 128  # grey values from here on are white
GREYS = (48, 207)  # what lies between is neither black nor white,
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
