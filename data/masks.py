"""Which masks belong to which photographs, in the ways that people and public datasets name them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from data.listing import list_folders, list_images

MASK_FOLDERS = ("masks", "mask", "ground_truth", "groundtruth", "ground truth")
# NAME_mask.png, NAME-gt.png, NAME_label.bmp, NAME.bm.png and, as labelling programs write, mask_NAME.png
MARKED = re.compile(
    r"(?P<stem>.+)([_\-. ](mask|masks|gt|ground_?truth|label|seg|bm))$", re.IGNORECASE | re.DOTALL
)
MARKED_BEFORE = re.compile(r"(mask|gt|label)[_\-. ](?P<stem>.+)$", re.IGNORECASE | re.DOTALL)


def key(stem: str) -> str:
    """A stem as names are compared: in any case, its accents in one form (NFC)."""
    return unicodedata.normalize("NFC", stem).casefold()


def unmarked(stem: str) -> str | None:
    """The photograph's stem in a mask's; None for a stem that marks no mask."""
    found = MARKED.fullmatch(stem) or MARKED_BEFORE.fullmatch(stem)
    return found["stem"] if found else None


def is_mask_folder(name: str) -> bool:
    return name.casefold() in MASK_FOLDERS


def masks_in(root: Path, folder: str, with_folders: bool = True) -> dict[str, str]:
    """Key of a photograph's stem -> path of its mask relative to root, for the masks in root/folder: marked
    names before plain ones, and with_folders those that are called as the photograph: the mask in one, or
    where it holds several the folder itself, which `data.images.open_mask` joins."""
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
    """Names of a folder's images that are masks of others in it -> the name of the photograph."""
    images = list(images)
    by_key = {key(Path(name).stem): name for name in images}
    found = {}
    for name in images:
        stem = unmarked(Path(name).stem)
        if stem is not None and by_key.get(key(stem), name) != name:
            found[name] = by_key[key(stem)]
    return found


def of_same_name(images: Iterable[str]) -> dict[str, str]:
    """Names of the PNG files next to a JPEG of the same stem -> the JPEG: in a defect's folder they are
    masks."""
    images = list(images)
    photos = {key(Path(name).stem): name for name in images if Path(name).suffix.lower() in (".jpg", ".jpeg")}
    return {
        name: photos[key(Path(name).stem)]
        for name in images
        if Path(name).suffix.lower() == ".png" and key(Path(name).stem) in photos
    }
