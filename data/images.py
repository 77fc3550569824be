"""Image files as RGB and as arrays, whatever their mode, depth and orientation. Without PyTorch: deploy/ uses
it. HEIC photographs, as telephones take them, are read where the package pillow-heif is installed."""

import errno
import importlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from utils.errors import DataError
from utils.limits import GreyRange, most_pixels
from utils.sources import CLIPS, OF_CLIP, facts_of, is_file, opened
from utils.text import printable
from utils.tile_layout import Crops

Item = TypeVar("Item")
Result = TypeVar("Result")
STRIP = 2**20  # pixels that are scaled at once
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HOW = "install pillow-heif (pip install pillow-heif), or convert it to PNG or JPEG"
try:
    importlib.import_module("pillow_heif").register_heif_opener()
    HEIF = True
except (ImportError, OSError, AttributeError):  # the package or its library is missing
    HEIF = False
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", *(("HEIF",) if HEIF else ()))
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
IMAGE_SUFFIXES = frozenset(
    (*JPEG_SUFFIXES, ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2")
    + (HEIF_SUFFIXES if HEIF else ())
)
UPRIGHT = 1  # EXIF's orientations: upright, or
ROTATIONS = {
    2: "mirrored",
    3: "rotated by 180 degrees",
    4: "upside down",
    5: "mirrored and rotated by 90 degrees",
    6: "rotated by 90 degrees",
    7: "mirrored and rotated by 270 degrees",
    8: "rotated by 270 degrees",
}
SWAPPED_SIDES = (5, 6, 7, 8)

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit: `opened_image` checks `most_pixels` instead


def open_image(path: str | Path, grey: GreyRange | None = None) -> Image.Image:
    """The photograph as RGB, upright (EXIF), its first frame if animated.

    More than 8 bits are scaled by the range `grey` (data/values.py); without one 16 bits by 1/257, wider
    integers and floats by `_own_range`. Transparency is laid on white. Raises DataError for a file that is
    missing, no image, damaged or of more than `most_pixels`.
    """
    with opened_image(path) as image:
        return to_rgb(upright(image), grey)


def open_wide(path: str | Path) -> np.ndarray | None:
    """The unscaled grey values (H,W) of a photograph of more than 8 bits; None for any other, whose pixels
    are not read. DataError as from open_image."""
    with opened_image(path) as image:
        return np.asarray(upright(image)) if is_wide(image) else None


def pages_left_out(path: str | Path) -> int:
    """The number of pages of a TIFF file after its first, which are not read; 0 for other files."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return 0
    with opened_image(path) as image:
        return int(getattr(image, "n_frames", 1)) - 1


def is_wide(image: Image.Image) -> bool:
    """Whether an image's values have more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def orientation(path: Path) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 where it has none. DataError as from open_image."""
    with opened_image(path) as image:
        return _orientation_of(image)


def _orientation_of(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return UPRIGHT  # Pillow would decode the PNG to look for it
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as in `upright`
        return UPRIGHT
    return value if value in ROTATIONS else UPRIGHT


def image_size(path: str | Path, decode: bool = False) -> tuple[int, int]:
    """(width, height) of the upright image; decode=True also decodes every pixel. DataError as from
    open_image."""
    with opened_image(path) as image:
        if decode or image.format == "TIFF":  # Pillow rotates a TIFF only when it loads it
            return upright(image).size
        return image.size[::-1] if _orientation_of(image) in SWAPPED_SIDES else image.size


def photograph_to_array(image: Image.Image, size: int, crops: Crops | None = None) -> np.ndarray:
    """What a detector takes: the RGB image (3,size,size) uint8, resized by PIL's bicubic filter, its aspect
    ratio not kept; with tiles (1+T,3,size,size), first the whole image and then its tiles, cut from the image
    resized to `crops.width` x `crops.height`."""
    image = _narrowed(image)
    if crops is None:
        return np.stack(_resized_channels(image, size, size))
    views = np.empty((1 + len(crops.origins), 3, size, size), np.uint8)
    views[0] = _resized_channels(image, size, size)
    for channel, large in enumerate(_resized_channels(image, crops.width, crops.height)):
        for number, (top, left) in enumerate(crops.origins, 1):
            views[number, channel] = large[top : top + size, left : left + size]
    return views


def _narrowed(image: Image.Image) -> Image.Image:
    """An RGB image; its first channel alone where all three are equal, which is resized to the same values in
    less than half of the time."""
    middle = image.height // 2
    row = image.crop((0, middle, image.width, middle + 1))  # most colour images show it there
    grey = _has_equal_channels(row) and _has_equal_channels(image)
    return image.getchannel(0) if grey else image


def _has_equal_channels(image: Image.Image) -> bool:
    red, green, blue = (image.tobytes("raw", name) for name in "RGB")
    return red == green == blue


def _resized_channels(image: Image.Image, width: int, height: int) -> list[np.ndarray]:
    """The three channels (height, width) uint8 of an image of mode RGB or L after resizing."""
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    if image.mode == "L":
        return 3 * [np.asarray(resized)]
    rows = (resized.tobytes("raw", name) for name in "RGB")
    return [np.frombuffer(one, np.uint8).reshape(height, width) for one in rows]


def refuse_large(width: int, height: int, name: str) -> None:
    """DataError, which begins with the `name`, for an image of more than `most_pixels`."""
    if width * height > most_pixels():
        raise DataError(
            f"{name} {width}x{height} px is above the limit of {most_pixels():,} pixels; make it smaller or "
            "raise the limit with --max-pixels"
        )


@contextmanager
def opened_image(path: str | Path) -> Iterator[Image.Image]:
    """The file with its header read and its size checked; whatever decoders raise inside becomes a
    DataError."""
    name = printable(path)
    try:
        facts = facts_of(path)
        if not is_file(path):  # a pipe would block, a folder is no image
            raise DataError(f"{name}: is not a file; give an image file")
        if facts.size == 0:
            raise DataError(f"{name}: is empty (0 bytes); copy it again or remove it")
        # A stream, for Pillow maps a named file into memory: a TIFF on its side would be read with its sides
        # swapped.
        with opened(path) as stream, Image.open(stream, formats=FORMATS) as image:
            refuse_large(image.width, image.height, f"{name}:")
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        problem = "is a link to nowhere" if Path(path).is_symlink() else "is missing"
        raise DataError(f"{name}: {problem}; put the file back, or mend the list that names it") from error
    except PermissionError as error:
        raise DataError(f"{name}: may not be read; give read permission") from error
    except UnidentifiedImageError as error:
        cures = {**dict.fromkeys(CLIPS, OF_CLIP), **({} if HEIF else dict.fromkeys(HEIF_SUFFIXES, HOW))}
        raise DataError(
            f"{name}: is not an image of a known format ({', '.join(FORMATS)}); "
            + cures.get(Path(path).suffix.lower(), "convert it to PNG or remove it")
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{name}: is a link that leads to itself; remove it") from error
        reason = printable(str(error))
        raise DataError(f"{name}: cannot be decoded ({reason}); copy it again or remove it") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, ValueError, MemoryError, ...
        reason = printable(str(error)) or type(error).__name__
        raise DataError(f"{name}: cannot be decoded ({reason}); copy it again or remove it") from error


def upright(image: Image.Image) -> Image.Image:
    """The decoded first frame, rotated upright by its EXIF orientation; broken EXIF data rotate nothing. The
    image itself where it is upright."""
    image.load()
    try:
        is_upright = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT) == UPRIGHT
        return image if is_upright else ImageOps.exif_transpose(image)
    except Exception:  # Pillow's EXIF parser raises as many kinds of error as its decoders
        return image


def to_rgb(image: Image.Image, grey: GreyRange | None = None) -> Image.Image:
    """An image of any mode as RGB; more than 8 bits are scaled as by `open_image`."""
    if is_wide(image):
        values = np.asarray(image)
        sixteen = image.mode != "F" and (image.mode != "I" or image.format in ("PNG", "PPM"))
        return Image.fromarray(_to_eight_bits(values, grey or _own_range(values, sixteen))).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _own_range(values: np.ndarray, sixteen: bool) -> GreyRange:
    """The range of (H,W) numbers without references: the depth of 16-bit files; for others the first of
    0..1, 0..255 and 0..65535 that holds all values, else minimum to maximum."""
    low, high = float(values.min()), float(values.max())
    if sixteen:
        return GreyRange(0.0, 65535.0)
    if low >= 0:
        for top in (1.0, 255.0, 65535.0):
            if high <= top:
                return GreyRange(0.0, top)
    return GreyRange(low, high)


def _to_eight_bits(values: np.ndarray, grey: GreyRange) -> np.ndarray:
    """(H,W) numbers to uint8, in strips of rows: the picture of a small file may be large."""
    scaled = np.empty(values.shape, np.uint8)
    scale = 255 / (grey.high - grey.low) if grey.high > grey.low else 0.0
    rows = max(1, STRIP // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        strip = values[start : start + rows].astype(np.float64)
        if not np.isfinite(strip).all():
            raise ValueError("it holds values that are not finite numbers")
        scaled[start : start + rows] = np.clip(np.rint((strip - grey.low) * scale), 0, 255)
    return scaled


def computed_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """function(item) of each item, in order, by so many threads; at most `ahead` results wait."""
    with ThreadPoolExecutor(threads, "ahead") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
