"""The heat map of predict.py (fdsl/report/) over a photograph, with its contours, by Pillow alone."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from deploy.numpy_boxes import mask_of
from utils.files import write_bytes
from utils.hot_regions import GREY_FLOOR, TOP, heat_tables, upsample

if TYPE_CHECKING:
    from deploy.graph import Graph, Result

PICTURES = "pictures"
QUALITY = 90  # of JPEG
CONTOUR_COLOUR, SHADOW = (255, 255, 255), (16, 16, 18)
CONTOURS_OF_A_SIDE = 500  # a contour is so many times thinner than the longer side
NAME_LENGTH = 40
COLOURS, REST = heat_tables()


def draw(
    photo: Image.Image, result: Result, scale: tuple[float, float], threshold: float | None
) -> Image.Image:
    """The heat map and the contour of a result, over the RGB photograph and at its size. `scale`: map
    values (low, high) from which on there is heat, and it is opaque; `threshold`: the pixel threshold."""
    low, high = scale
    upsampled = upsample(result.patch_map, photo.height, photo.width)
    heights = (upsampled - low) * (255 / (TOP * (high - low)))
    shades = np.clip(np.rint(heights), 0, 255).astype(np.uint8)
    grey = np.asarray(photo.convert("L"), np.float32) * np.float32((255 - GREY_FLOOR) / 255) + GREY_FLOOR
    values = COLOURS.astype(np.float32)[shades] + (grey * REST[shades] / np.float32(255))[..., None]
    picture = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    if result.is_anomalous is not False and not result.reason:
        _outline(picture, Image.fromarray(mask_of(upsampled, threshold)).convert("L"))
    return picture


def _outline(picture: Image.Image, mask: Image.Image) -> None:
    """Draws the contour of a mask (0 or 255): a light line outside of it between two dark ones."""
    rings = [mask]
    for thickness in (1, max(1, round(max(picture.size) / CONTOURS_OF_A_SIDE)), 1):
        rings.append(_grown(rings[-1], thickness))
    for colour, inner, outer in zip((SHADOW, CONTOUR_COLOUR, SHADOW), rings, rings[1:]):
        picture.paste(colour, mask=ImageChops.subtract(outer, inner))


def _grown(mask: Image.Image, pixels: int) -> Image.Image:
    """A mask (0 or 255) that is larger by so many pixels on all sides; in the same time for any number."""
    for radii in ((pixels, 0), (0, pixels)):
        mask = mask.filter(ImageFilter.BoxBlur(radii)).point([0] + [255] * 255)
    return mask


def encoded(picture: Image.Image, kind: str) -> bytes:
    """A picture as a PNG or JPEG file."""
    stream = io.BytesIO()
    picture.save(stream, kind, quality=QUALITY)
    return stream.getvalue()


def add_picture(
    row: dict[str, Any],
    folder: Path,
    graph: Graph,
    photo: Image.Image,
    result: Result,
    pictures: str,
    version: str = "",
) -> None:
    """Writes a photograph's picture to an output folder, and its place there into its row. `pictures`: of
    which photographs, as --pictures has it; `version`: what differs from an earlier photograph of that
    name."""
    if pictures != "all" and (pictures == "none" or result.is_anomalous is False):
        return
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", row["image"])[-NAME_LENGTH:].strip("_")
    digest = hashlib.sha256(f"{row['image']} {version}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
    place = f"{PICTURES}/{plain}_{digest}.jpg"
    drawn = draw(photo, result, graph.heat_scale, graph.pixel_threshold)
    write_bytes(folder / place, encoded(drawn, "JPEG"))
    row["picture"] = place
