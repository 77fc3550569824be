"""Masks: which belongs to which photograph, by the names that people and public datasets give them; their
files as arrays, and the saturation thresholds of defects."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageChops

from data.images import ROTATIONS, SWAPPED_SIDES, UPRIGHT, image_size, opened_image, orientation, upright
from data.listing import list_folders, list_images
from data.records import Record
from utils.errors import DataError
from utils.files import read_json
from utils.numbers import is_finite
from utils.text import printable

SATURATIONS = "defects_config.json"  # MVTec LOCO AD's file of saturation thresholds
MOST_DEFECT = 0.6  # of a mask, from which on it may be inverted
MASK_FOLDERS = ("masks", "mask", "ground_truth", "groundtruth", "ground truth")
# NAME_mask.png, NAME-gt.png, NAME_label.bmp, NAME.bm.png and, as labelling programs write, mask_NAME.png
MARKED = re.compile(r"(?is)(?P<stem>.+)([_\-. ](mask|masks|gt|ground_?truth|label|seg|bm))$")
MARKED_BEFORE = re.compile(r"(?is)(mask|gt|label)[_\-. ](?P<stem>.+)$")


def key(stem: str) -> str:
    """A stem as it is compared with others: without case, its accents in one form (NFC)."""
    return unicodedata.normalize("NFC", stem).casefold()


def unmarked(stem: str) -> str | None:
    """The photograph's stem in a mask's; None for a stem without a mask's mark."""
    match = MARKED.fullmatch(stem) or MARKED_BEFORE.fullmatch(stem)
    return match["stem"] if match else None


def is_mask_folder(name: str) -> bool:
    return name.casefold() in MASK_FOLDERS


def masks_in(root: Path, folder: str, with_folders: bool = True) -> dict[str, str]:
    """Key of a photograph's stem -> path of its mask relative to root, for the masks in root/folder. Marked
    names come before plain ones. `with_folders`: also folders named like a photograph, for the mask in one,
    or with several masks for the folder itself, which `open_mask` joins."""
    if not (root / folder).is_dir():
        return {}
    names = list_images(root / folder)
    plain = {key(Path(name).stem): f"{folder}/{name}" for name in reversed(names)}
    marked = {
        key(stem): f"{folder}/{name}" for name in reversed(names) if (stem := unmarked(Path(name).stem))
    }
    inside = {}
    for name in list_folders(root / folder) if with_folders else ():
        files = list_images(root / folder / name)
        if files:
            inside[key(name)] = f"{folder}/{name}/{files[0]}" if len(files) == 1 else f"{folder}/{name}"
    return inside | plain | marked


def masks_next_to(images: Iterable[str]) -> dict[str, str]:
    """Name of a mask -> name of its photograph, for the masks among a folder's images."""
    images = list(images)
    by_key = {key(Path(name).stem): name for name in images}
    photo_of = {}
    for name in images:
        stem = unmarked(Path(name).stem)
        if stem is not None and by_key.get(key(stem), name) != name:
            photo_of[name] = by_key[key(stem)]
    return photo_of


def of_same_name(images: Iterable[str]) -> dict[str, str]:
    """Name of a PNG -> name of the JPEG of the same stem next to it: in a defect's folder it is its mask."""
    images = list(images)
    photos = {key(Path(name).stem): name for name in images if Path(name).suffix.lower() in (".jpg", ".jpeg")}
    pairs = (
        (name, photos.get(key(Path(name).stem))) for name in images if Path(name).suffix.lower() == ".png"
    )
    return {name: photo for name, photo in pairs if photo}


def open_mask(path: str | Path) -> Image.Image:
    """The mask as "L", 0 or 255: every pixel that is not zero (black, transparent) is defect, however small
    its value.

    Palette masks are read by index where index 0 is black, else by colour. In JPEG masks that reach half of
    full scale a defect begins there, since compression leaves noise at edges. The masks in a folder are
    joined. Raises DataError as open_image does.
    """
    if Path(path).is_dir():
        return _joined_mask(Path(path))
    with opened_image(path) as image:
        lossy = image.format in ("JPEG", "MPO")
        values = _mask_values(upright(image))
        least = 128 if lossy and values.max() >= 128 else 1
        defect = values >= least if values.dtype == np.uint8 else values != 0
        return Image.fromarray(np.where(defect, np.uint8(255), np.uint8(0)))


def mask_values(path: str | Path) -> np.ndarray:
    """The numbers (H,W) in one mask file, upright, as they are. DataError as from open_image."""
    with opened_image(path) as image:
        return _mask_values(upright(image))


def size_doubt(mask: tuple[int, int], photo: tuple[int, int]) -> str:
    """A warning, with the cure, where the (width, height) of a mask differs from its upright photograph's;
    "" where they are the same."""
    if mask == photo:
        return ""
    swapped = mask[0] * photo[0] == mask[1] * photo[1]
    cure = "rotate it upright, as EXIF data rotate the photograph" if swapped else "mark it again"
    return "mask of {}x{} px for an image of {}x{} px; {}".format(*mask, *photo, cure)


def content_doubt(mask: Image.Image) -> str:
    """A warning about a defect's mask (as of `open_mask`) that is empty or nearly full; "" for any other."""
    share = float(np.asarray(mask).mean()) / 255
    if share == 0:
        return "the mask of a defect is empty; if the defect was not marked, remove the mask"
    if share > MOST_DEFECT:
        return f"{share:.0%} of the mask is defect; if black marks the defect, invert the mask"
    return ""


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


def mask_files(path: Path) -> list[Path]:
    """The files of a mask: itself, or those in a folder of masks, in order."""
    if not path.is_dir():
        return [path]
    return [path / name for name in list_images(path)]


def _joined_mask(folder: Path) -> Image.Image:
    """The union of the masks in a folder; DataError where there is none, or their sizes differ."""
    files = mask_files(folder)
    if not files:
        raise DataError(f"{printable(folder)}: is not a file and holds no mask; put the mask there")
    joined = open_mask(files[0])
    for file in files[1:]:
        mask = open_mask(file)
        if mask.size != joined.size:
            raise DataError(f"{printable(file)}: has another size than the other masks; mend it")
        joined = ImageChops.lighter(joined, mask)
    return joined


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


class SaturatingRegion(NamedTuple):
    """A region (H,W) bool, and its saturation: the share of its area in (0,1] from which on it counts as
    detected completely."""

    mask: np.ndarray
    share: float


@dataclass(frozen=True)
class Saturations:
    """A category's saturation thresholds by the value of a mask's pixels: in pixels or, where it is relative,
    as a share of the region's area. Each mask file is one region (Bergmann et al., Beyond Dents and
    Scratches, IJCV 2022)."""

    file: Path
    thresholds: dict[int, tuple[float, bool]]  # and whether it is relative

    @classmethod
    def of(cls, root: Path, records: Sequence[Record]) -> Saturations | None:
        """The thresholds in the nearest file above the records' masks; None without a file, or for an empty
        list. DataError for other content."""
        masks = [record.mask_path for record in records if record.mask_path]
        above = PurePosixPath(masks[0]).parents if masks else ()
        file = next((file for place in above if (file := root / place / SATURATIONS).is_file()), None)
        entries = None if file is None else read_json(file)
        if file is None or entries == []:
            return None
        if not isinstance(entries, list) or not all(map(_is_entry, entries)):
            raise DataError(
                f"{printable(file)}: is not a list of entries with pixel_value, saturation_threshold and "
                "relative_saturation, as MVTec LOCO AD has it; put the dataset's own file there, or remove it"
            )
        names = ("pixel_value", "saturation_threshold", "relative_saturation")
        rows = ([entry[name] for name in names] for entry in entries)
        return cls(file, {value: (float(threshold), relative) for value, threshold, relative in rows})

    def regions(self, mask: Path) -> list[SaturatingRegion]:
        """The regions of a mask file, or of a folder of mask files, at the mask's own size. DataError for a
        value without a threshold."""
        regions = []
        for file in mask_files(mask):
            values = mask_values(file)
            for value in np.unique(values[values != 0]).tolist():
                if value not in self.thresholds:
                    raise DataError(
                        f"{printable(file)}: its value {value} is not in {printable(self.file)}, which has "
                        "the saturation threshold of each value; mend one of them"
                    )
                region = values == value
                regions.append(SaturatingRegion(region, self._share(value, int(region.sum()))))
        return regions

    def _share(self, value: int, area: int) -> float:
        """The saturation of a region of `area` pixels as a share, rounded down to pixels, at least one."""
        threshold, relative = self.thresholds[value]
        pixels = int(threshold * area if relative else threshold)
        return min(max(pixels, 1), area) / area


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("relative_saturation"), bool):
        return False
    value, threshold = entry.get("pixel_value"), entry.get("saturation_threshold")
    return type(value) is int and value > 0 and is_finite(threshold) and threshold > 0
