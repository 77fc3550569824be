"""From an image file to what a detector looks at, exactly as predict.py goes about it (data/images.py)."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fdsl_line.archives import is_file, size_of
from fdsl_line.archives import opened as stream_of
from fdsl_line.errors import Refused, printable

MAX_PIXELS = 100_000_000
STRIP = 2**20  # pixels that are scaled at once
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HOW = "install pillow-heif (pip install pillow-heif), or convert it to PNG or JPEG"


def can_read_heif() -> bool:
    """Whether Pillow reads HEIC files here; where pillow-heif is installed it is told to."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except (ImportError, OSError, AttributeError):  # missing, or its library is
        return False
    return True


HEIF = can_read_heif()
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", *(("HEIF",) if HEIF else ()))
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
IMAGE_SUFFIXES = frozenset(
    (*JPEG_SUFFIXES, ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2")
    + (HEIF_SUFFIXES if HEIF else ())
)
Image.MAX_IMAGE_PIXELS = None  # `opened` holds the limit in its place


@dataclass(frozen=True)
class GreyRange:
    """Values of photographs of more than 8 bits, from `low` (black) to `high` (white); what lies outside is
    cut."""

    low: float
    high: float


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS, grey: GreyRange | None = None) -> Image.Image:
    """The photograph as RGB, upright (EXIF), its first frame if animated; transparency is laid on white.

    More than 8 bits are scaled by `grey`, without one 16 bits by 1/257 and others by the range that their
    values lie in. Refused for a file that is missing, no image, damaged or larger than max_pixels.
    """
    with opened(path, max_pixels) as image:
        return to_rgb(upright(image), grey)


@dataclass(frozen=True)
class Tiles:
    """Parts of a photograph that are looked at beside the whole: it is squashed to `width` x `height` pixels,
    and each begins at one of the `origins` (top, left)."""

    width: int
    height: int
    origins: tuple[tuple[int, int], ...]


def to_pixels(photo: Image.Image, side: int, tiles: Tiles | None = None) -> np.ndarray:
    """A photograph as (1,3,side,side) uint8, squashed by Pillow's bicubic filter; with tiles
    (1,1+T,3,side,side), first the whole."""
    whole = squashed(photo, side, side)
    if tiles is None:
        return whole[None]
    large = squashed(photo, tiles.width, tiles.height)
    parts = [large[:, top : top + side, left : left + side] for top, left in tiles.origins]
    return np.stack([whole, *parts])[None]


def squashed(photo: Image.Image, width: int, height: int) -> np.ndarray:
    """A photograph as (3,height,width) uint8."""
    small = photo.resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


@contextmanager
def opened(path: str | Path, max_pixels: int) -> Iterator[Image.Image]:
    """The file with its header read and its size checked; whatever decoders raise inside becomes Refused."""
    name = printable(path)
    try:
        size = size_of(path)
        if not is_file(path):  # a pipe would block, a folder is no image
            raise Refused(f"{name}: is not a file; give an image file")
        if size == 0:
            raise Refused(f"{name}: is empty (0 bytes); copy it again or remove it")
        # A stream, for Pillow maps a named file into memory: a TIFF on its side would be read with its sides
        # swapped.
        with stream_of(path) as stream, Image.open(stream, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise Refused(
                    f"{name}: {image.width}x{image.height} px is above the limit of {max_pixels:,} pixels; "
                    "make it smaller or raise the limit with --max-pixels"
                )
            yield image
    except Refused:
        raise
    except FileNotFoundError as error:
        problem = "is a link to nowhere" if Path(path).is_symlink() else "is missing"
        raise Refused(f"{name}: {problem}; put the file back, or mend the list that names it") from error
    except PermissionError as error:
        raise Refused(f"{name}: may not be read; give read permission") from error
    except UnidentifiedImageError as error:
        heif = Path(path).suffix.lower() in HEIF_SUFFIXES and not HEIF
        raise Refused(
            f"{name}: is not an image of a known format ({', '.join(FORMATS)}); "
            + (HOW if heif else "convert it to PNG or remove it")
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused(f"{name}: is a link that leads to itself; remove it") from error
        reason = printable(str(error))
        raise Refused(f"{name}: cannot be decoded ({reason}); copy it again or remove it") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError, ...
        reason = printable(str(error)) or type(error).__name__
        raise Refused(f"{name}: cannot be decoded ({reason}); copy it again or remove it") from error


def upright(image: Image.Image) -> Image.Image:
    """The decoded first frame, turned as its EXIF orientation says; broken EXIF data turn nothing."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow's EXIF parser raises as many kinds of error as its decoders
        return image


def is_wide(image: Image.Image) -> bool:
    """Whether its values have more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def to_rgb(image: Image.Image, grey: GreyRange | None = None) -> Image.Image:
    """Any mode as RGB."""
    if is_wide(image):
        values = np.asarray(image)
        sixteen = image.mode != "F" and (image.mode != "I" or image.format in ("PNG", "PPM"))
        return Image.fromarray(to_eight_bits(values, grey or own_range(values, sixteen))).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def own_range(values: np.ndarray, sixteen: bool) -> GreyRange:
    """The range of (H,W) numbers that no reference says anything of."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds values that are not finite numbers")
    if sixteen:
        return GreyRange(0.0, 65535.0)
    if low >= 0:
        for top in (1.0, 255.0, 65535.0):
            if high <= top:
                return GreyRange(0.0, top)
    return GreyRange(low, high)


def to_eight_bits(values: np.ndarray, grey: GreyRange) -> np.ndarray:
    """(H,W) numbers to uint8, strip by strip: a file may be small and its picture large."""
    found = np.empty(values.shape, np.uint8)
    scale = 255 / (grey.high - grey.low) if grey.high > grey.low else 0.0
    rows = max(1, STRIP // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float64)
        if not np.isfinite(part).all():
            raise ValueError("it holds values that are not finite numbers")
        found[start : start + rows] = np.clip(np.rint((part - grey.low) * scale), 0, 255)
    return found
