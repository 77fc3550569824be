"""More from the same shots: rotated copies for the memory bank, slightly varied ones for a threshold."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from data.records import stable_seed
from utils.tile_layout import TileLayout

# How far two photographs of the same part may differ when nobody moved the camera on purpose.
MOST_TURN = 3.0  # degrees
MOST_SHIFT = 0.02  # of the sides
MOST_SCALE = 0.03
MOST_LIGHT = 0.10  # brightness and contrast


def rotated(photo: Image.Image, count: int) -> Iterator[Image.Image]:
    """The RGB photograph and its copies turned about the centre by 360/count degrees each: `count` in all.

    The frame stays as it is; what turns in from outside repeats its edge.
    """
    yield photo
    for step in range(1, count):
        yield _moved(photo, _turning(photo.size, 360 * step / count), cv2.BORDER_REPLICATE)


def rotated_places(size: tuple[int, int], count: int, grid: int) -> np.ndarray:
    """(count, grid*grid, 2): for each patch of each copy of `rotated`, the row and column, in patches, where
    its centre lies on the photograph as it was; `size` is the photograph's (width, height)."""
    width, height = size
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    return _unturned((rows + 0.5) * height / grid, (columns + 0.5) * width / grid, size, count, grid)


def rotated_tile_places(size: tuple[int, int], count: int, layout: TileLayout) -> np.ndarray:
    """(count, T*N, 2): the same of the patches of tiles, in patches of the whole image."""
    width, height = size
    down, across = layout.places().T
    return _unturned(down * height, across * width, size, count, layout.grid)


def _unturned(
    down: np.ndarray, across: np.ndarray, size: tuple[int, int], count: int, grid: int
) -> np.ndarray:
    """(count, n, 2): where places of each copy, in pixels from its upper left corner, lie on the
    photograph."""
    width, height = size
    pixels = np.stack([across - 0.5, down - 0.5, np.ones(len(down))])
    places = []
    for step in range(count):
        back = cv2.invertAffineTransform(_turning(size, 360 * step / count))
        columns, rows = (place.clip(0, side - 1) for place, side in zip(back @ pixels, size))
        places.append(
            np.stack([(rows + 0.5) * grid / height - 0.5, (columns + 0.5) * grid / width - 0.5], axis=1)
        )
    return np.stack(places)


def varied(photo: Image.Image, count: int, seed: int = 0) -> Iterator[Image.Image]:
    """`count` copies of the RGB photograph, each moved, turned, scaled and lit a little differently.

    The same (photograph size, count, seed) gives the same variation in every process.
    """
    generator = np.random.default_rng(stable_seed("varied", seed))
    for _ in range(count):
        turn, across, down, scale, light, contrast = generator.uniform(-1, 1, 6)
        matrix = _turning(photo.size, MOST_TURN * turn, 1 + MOST_SCALE * scale)
        matrix[:, 2] += MOST_SHIFT * across * photo.width, MOST_SHIFT * down * photo.height
        pixels = np.asarray(_moved(photo, matrix, cv2.BORDER_REFLECT_101), dtype=np.float32)
        middle = pixels.mean()
        lit = (pixels - middle) * (1 + MOST_LIGHT * contrast) + middle * (1 + MOST_LIGHT * light)
        yield Image.fromarray(np.clip(np.rint(lit), 0, 255).astype(np.uint8))


def _turning(size: tuple[int, int], degrees: float, scale: float = 1) -> np.ndarray:
    width, height = size
    return cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)


def _moved(photo: Image.Image, matrix: np.ndarray, border: int) -> Image.Image:
    """The photograph under an affine transform (2,3) of its pixels, in its own frame."""
    return Image.fromarray(
        cv2.warpAffine(np.asarray(photo), matrix, photo.size, flags=cv2.INTER_CUBIC, borderMode=border)
    )
