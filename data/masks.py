"""Pairs masks with photographs, by the names that people and public datasets give them."""

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
    or with several masks for the folder itself, which `data.images.open_mask` joins."""
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
    return {
        name: photos[key(Path(name).stem)]
        for name in images
        if Path(name).suffix.lower() == ".png" and key(Path(name).stem) in photos
    }
