"""Image and mask files as RGB and as arrays, whatever their mode, depth and orientation. Without PyTorch:
deploy/ uses it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError

from data.heif import HEIF_SUFFIXES, HOW, can_read_heif
from utils.archives import facts_of, is_file, opened
from utils.errors import DataError
from utils.grey_range import GreyRange
from utils.limits import most_pixels
from utils.live_sources import CLIPS, OF_CLIP
from utils.text import printable
from utils.tile_layout import Crops

STRIP = 2**20  # pixels that are scaled at once
HEIF = can_read_heif()
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

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit: `_opened` checks `most_pixels` instead


def open_image(path: str | Path, grey: GreyRange | None = None) -> Image.Image:
    """The photograph as RGB, upright (EXIF), its first frame if animated.

    More than 8 bits are scaled by the range `grey` (data/grey.py); without one 16 bits by 1/257, wider
    integers and floats by `_own_range`. Transparency is laid on white. Raises DataError for a file that is
    missing, no image, damaged or of more than `most_pixels`.
    """
    with _opened(path) as image:
        return to_rgb(upright(image), grey)


def open_wide(path: str | Path) -> np.ndarray | None:
    """The unscaled grey values (H,W) of a photograph of more than 8 bits; None for any other, whose pixels
    are not read. DataError as from open_image."""
    with _opened(path) as image:
        return np.asarray(upright(image)) if is_wide(image) else None


def pages_left_out(path: str | Path) -> int:
    """The number of pages of a TIFF file after its first, which are not read; 0 for other files."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return 0
    with _opened(path) as image:
        return int(getattr(image, "n_frames", 1)) - 1


def is_wide(image: Image.Image) -> bool:
    """Whether an image's values have more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def open_mask(path: str | Path) -> Image.Image:
    """The mask as "L", 0 or 255: every pixel that is not zero (black, transparent) is defect, however small
    its value.

    Palette masks are read by index where index 0 is black, else by colour. In JPEG masks that reach half of
    full scale a defect begins there, since compression leaves noise at edges. The masks in a folder are
    joined. Raises DataError as open_image does.
    """
    if Path(path).is_dir():
        return _joined_mask(Path(path))
    with _opened(path) as image:
        lossy = image.format in ("JPEG", "MPO")
        values = _mask_values(upright(image))
        least = 128 if lossy and values.max() >= 128 else 1
        defect = values >= least if values.dtype == np.uint8 else values != 0
        return Image.fromarray(np.where(defect, np.uint8(255), np.uint8(0)))


def mask_values(path: str | Path) -> np.ndarray:
    """The numbers (H,W) in one mask file, upright, as they are. DataError as from open_image."""
    with _opened(path) as image:
        return _mask_values(upright(image))


def size_doubt(mask: tuple[int, int], photo: tuple[int, int]) -> str:
    """A warning, with the cure, where the (width, height) of a mask differs from its upright photograph's;
    "" where they are the same."""
    if mask == photo:
        return ""
    swapped = mask[0] * photo[0] == mask[1] * photo[1]
    cure = "rotate it upright, as EXIF data rotate the photograph" if swapped else "mark it again"
    return "mask of {}x{} px for an image of {}x{} px; {}".format(*mask, *photo, cure)


def rotation_doubt(mask: Path, photo: Path) -> str:
    """A warning where EXIF data rotate the photograph, its mask has none, and their equal sizes do not reveal
    it; "" otherwise, and for a folder of masks."""
    if mask.is_dir() or (rotation := orientation(photo)) not in ROTATIONS:
        return ""
    width, height = image_size(photo, False)
    revealed_by_size = rotation in SWAPPED_SIDES and width != height
    if revealed_by_size or orientation(mask) != UPRIGHT:
        return ""
    return (
        f"EXIF data of its image {printable(photo.name)} mean {ROTATIONS[rotation]}, and the mask has none; "
        "check that it was marked on the upright image"
    )


def orientation(path: Path) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 where it has none. DataError as from open_image."""
    with _opened(path) as image:
        return _orientation_of(image)


def _orientation_of(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return UPRIGHT  # Pillow would decode the PNG to look for it
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as in `upright`
        return UPRIGHT
    return value if value in ROTATIONS else UPRIGHT


def mask_files(path: Path) -> list[Path]:
    """The files of a mask: itself, or those in a folder of masks, in order."""
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def _joined_mask(folder: Path) -> Image.Image:
    """The union of the masks in a folder; DataError where there is none, or their sizes differ."""
    files = mask_files(folder)
    if not files:
        raise DataError(
            f"{printable(folder)}: is not a file and holds no mask; put the masks of one photograph into it"
        )
    joined = open_mask(files[0])
    for file in files[1:]:
        mask = open_mask(file)
        if mask.size != joined.size:
            raise DataError(
                f"{printable(file)}: has another size than the other masks of its photograph; put the right "
                "mask there"
            )
        joined = ImageChops.lighter(joined, mask)
    return joined


def image_size(path: str | Path, decode: bool = False) -> tuple[int, int]:
    """(width, height) of the upright image; decode=True also decodes every pixel. DataError as from
    open_image."""
    with _opened(path) as image:
        if decode or image.format == "TIFF":  # Pillow rotates a TIFF only when it loads it
            return upright(image).size
        return image.size[::-1] if _orientation_of(image) in SWAPPED_SIDES else image.size


def image_to_array(image: Image.Image, width: int, height: int) -> np.ndarray:
    """(3, height, width) uint8: the RGB image resized by PIL's bicubic filter, its aspect ratio not kept."""
    return np.stack(_resized_channels(_narrowed(image), width, height))


def photograph_to_array(image: Image.Image, size: int, crops: Crops | None = None) -> np.ndarray:
    """What a detector takes: the resized image (3,size,size) uint8; with tiles (1+T,3,size,size), first the
    whole image and then its tiles, cut from the image resized to `crops.width` x `crops.height`."""
    if crops is None:
        return image_to_array(image, size, size)
    image = _narrowed(image)
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
def _opened(path: str | Path) -> Iterator[Image.Image]:
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
    0..1, 0..255 and 0..65535 that holds all values, else minimum to maximum. ValueError if not finite."""
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


def _mask_values(image: Image.Image) -> np.ndarray:
    """(H,W) numbers, zero where the mask is normal; nothing is scaled, so small class numbers survive."""
    if image.mode == "P":
        black_first = not any((image.getpalette("RGB") or [0, 0, 0])[:3])
        if black_first:
            return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in ("L", "I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return np.where(rgba[..., 3] > 0, rgba[..., :3].max(axis=2), np.uint8(0))
    return np.asarray(image.convert("RGB")).max(axis=2)
