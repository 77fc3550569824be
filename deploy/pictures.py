"""The heat map of predict.py (fdsl/report/) over a photograph, with boxes, by Pillow alone."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from utils.heat_colours import GREY_FLOOR, TOP, heat_tables
from utils.hot_regions import Box, upsample

if TYPE_CHECKING:
    from deploy.graph import Found

PICTURES = "pictures"
QUALITY = 90  # of JPEG
BOX_COLOUR, SHADOW = (64, 224, 208), (16, 16, 18)
NAME_LENGTH = 40
COLOURS, REST = heat_tables()


def draw(photo: Image.Image, found: Found, scale: tuple[float, float]) -> Image.Image:
    """The heat map and the boxes of what was found, over the RGB photograph and at its size. `scale`: map
    values (low, high) from which on there is heat, and it is opaque."""
    low, high = scale
    heights = (upsample(found.patch_map, photo.height, photo.width) - low) * (255 / (TOP * (high - low)))
    shades = np.clip(np.rint(heights), 0, 255).astype(np.uint8)
    grey = np.asarray(photo.convert("L"), np.float32) * np.float32((255 - GREY_FLOOR) / 255) + GREY_FLOOR
    values = COLOURS.astype(np.float32)[shades] + (grey * REST[shades] / np.float32(255))[..., None]
    picture = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    _outline(picture, found.boxes)
    return picture


def _outline(picture: Image.Image, boxes: Sequence[Box]) -> None:
    pen, thickness = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 300))
    for box in boxes:
        corners = (box.x, box.y, box.x + box.width - 1, box.y + box.height - 1)
        for grow, width, colour in ((1, thickness + 2, SHADOW), (0, thickness, BOX_COLOUR)):
            left, top, right, bottom = corners
            pen.rectangle((left - grow, top - grow, right + grow, bottom + grow), None, colour, width)


def encoded(picture: Image.Image, kind: str) -> bytes:
    """A picture as a PNG or JPEG file."""
    stream = io.BytesIO()
    picture.save(stream, kind, quality=QUALITY)
    return stream.getvalue()


def write(folder: Path, name: str, version: str, picture: Image.Image) -> str:
    """Writes a photograph's picture to an output folder; returns its place there. `version`: what tells it
    from an earlier photograph of that name."""
    from utils.files import write_bytes

    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[-NAME_LENGTH:].strip("_")
    digest = hashlib.sha256(f"{name} {version}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
    place = f"{PICTURES}/{plain}_{digest}.jpg"
    write_bytes(folder / place, encoded(picture, "JPEG"))
    return place
