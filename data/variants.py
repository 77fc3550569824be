"""Copies of the references: rotated ones for the memory bank, slightly varied ones for a threshold."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from data.photographs import pixel_digest
from data.records import stable_seed
from data.region_of_interest import OWN, own_roi
from utils.tile_layout import TileLayout

# How far two photographs of the same part may differ when nobody moved the camera on purpose.
MOST_ROTATION = 3.0  # degrees
MOST_SHIFT = 0.02  # of the sides
MOST_SCALE = 0.03
MOST_LIGHT = 0.10  # brightness and contrast


def rotated(photo: Image.Image, count: int) -> Iterator[Image.Image]:
    """The RGB photograph and its copies rotated about the centre by 360/count degrees each: `count` in all,
    without masks of their own.

    The frame stays; what comes in from outside repeats the photograph's edge.
    """
    yield Image.fromarray(np.asarray(photo))
    for step in range(1, count):
        yield _moved(photo, _rotation(photo.size, 360 * step / count), cv2.BORDER_REPLICATE)


def rotated_places(size: tuple[int, int], count: int, grid: int, layout: TileLayout | None) -> np.ndarray:
    """(count, n, 2): for each of the n patches of each copy of `rotated`, the row and column, in patches of
    the whole image, where its centre lies on the unrotated photograph; outside, on its nearest edge.

    `size`: the photograph's (width, height). n is grid x grid, or with `layout` all patches of its tiles.
    """
    width, height = size
    places = _source_places(size, count, grid, layout)
    rows, columns = places[..., 0].clip(0, height - 1), places[..., 1].clip(0, width - 1)
    return np.stack([(rows + 0.5) * grid / height - 0.5, (columns + 0.5) * grid / width - 0.5], axis=-1)


def rotated_inside(size: tuple[int, int], count: int, grid: int, layout: TileLayout | None) -> np.ndarray:
    """(count, n) bool: which patches of each copy of `rotated` have their centre on the photograph; the
    others repeat its edge. The arguments are those of `rotated_places`."""
    rows, columns = np.moveaxis(_source_places(size, count, grid, layout), -1, 0)
    width, height = size
    return (rows >= -0.5) & (rows <= height - 0.5) & (columns >= -0.5) & (columns <= width - 0.5)


def _source_places(size: tuple[int, int], count: int, grid: int, layout: TileLayout | None) -> np.ndarray:
    """(count, n, 2): the row and column of the photograph, in pixels, at the centre of each patch of each
    copy; they may lie beyond its edge."""
    width, height = size
    if layout is None:
        rows, columns = (np.stack(np.divmod(np.arange(grid * grid), grid)) + 0.5) / grid
    else:
        rows, columns = layout.places().T
    centres = np.stack([columns * width - 0.5, rows * height - 0.5, np.ones(len(rows))])
    backs = [cv2.invertAffineTransform(_rotation(size, 360 * step / count)) for step in range(count)]
    return np.stack([(back @ centres)[::-1].T for back in backs])


def varied(photo: Image.Image, count: int) -> Iterator[Image.Image]:
    """`count` copies of the RGB photograph, each shifted, rotated, scaled and lit a little differently; its
    mask stays as it is.

    The variation follows from the photograph's pixels: it is the same in every process, and wherever the
    photograph stands among others.
    """
    generator = np.random.default_rng(stable_seed("varied", pixel_digest(photo)))
    for _ in range(count):
        angle, across, down, scale, light, contrast = generator.uniform(-1, 1, 6)
        matrix = _rotation(photo.size, MOST_ROTATION * angle, 1 + MOST_SCALE * scale)
        matrix[:, 2] += MOST_SHIFT * across * photo.width, MOST_SHIFT * down * photo.height
        pixels = np.asarray(_moved(photo, matrix, cv2.BORDER_REFLECT_101), dtype=np.float32)
        middle = pixels.mean()
        lit = (pixels - middle) * (1 + MOST_LIGHT * contrast) + middle * (1 + MOST_LIGHT * light)
        copy = Image.fromarray(np.clip(np.rint(lit), 0, 255).astype(np.uint8))
        if (roi := own_roi(photo)) is not None:
            copy.info[OWN] = roi
        yield copy


def _rotation(size: tuple[int, int], degrees: float, scale: float = 1) -> np.ndarray:
    width, height = size
    return cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)


def _moved(photo: Image.Image, matrix: np.ndarray, border: int) -> Image.Image:
    """The photograph under an affine transform (2,3) of its pixels, in its own frame."""
    return Image.fromarray(
        cv2.warpAffine(np.asarray(photo), matrix, photo.size, None, cv2.INTER_CUBIC, border)
    )
