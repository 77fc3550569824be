"""The contents of a folder: its folders, its images, and photographs of formats that are not read."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from data.images import HEIF_SUFFIXES, HOW, IMAGE_SUFFIXES
from utils.errors import DataError
from utils.sources import CLIPS, OF_CLIP
from utils.text import natural_key, printable

UNREAD_SUFFIXES = frozenset(".avif .jxl .raw .cr2 .cr3 .nef .arw .dng .raf .orf .rw2".split())


def list_folders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, in natural order; DataError if it cannot be read."""
    return [entry.name for entry in _entries(folder) if is_folder(entry)]


def list_images(folder: Path) -> list[str]:
    """Names of the visible image files in a folder, in natural order, broken links included, which are
    reported as missing later; DataError if the folder cannot be read."""
    images = (entry for entry in _entries(folder) if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES)
    return [entry.name for entry in images if not is_folder(entry)]


def visible_entries(folder: str | Path) -> list[os.DirEntry]:
    """The entries of a folder that do not begin with a dot, in natural order; OSError."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: natural_key(entry.name))


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        return visible_entries(folder)
    except OSError as error:
        raise DataError(
            f"{printable(folder)}: cannot be listed ({error.strerror}); give a readable one"
        ) from error


def why_unread(suffix: str) -> str:
    """Why photographs or clips with this suffix are not read, with the cure; "" for those that are, and for
    other files."""
    if suffix in CLIPS:
        return f"{suffix} clips are not read among photographs; {OF_CLIP}"
    if suffix in IMAGE_SUFFIXES or suffix not in UNREAD_SUFFIXES.union(HEIF_SUFFIXES):
        return ""
    cure = HOW if suffix in HEIF_SUFFIXES else "convert it to PNG or JPEG"
    return f"{suffix} photographs are not read; {cure}"


def unread_below(root: Path) -> list[str]:
    """A sentence for each folder below root that holds photographs of a format that is not read."""
    sentences = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted((name for name in inner if not name.startswith(".")), key=natural_key)
        counts = Counter(Path(name).suffix.lower() for name in names if not name.startswith("."))
        reasons = {suffix: why_unread(suffix) for suffix in sorted(counts)}
        sentences += [f"{printable(folder)}: {counts[one]} {why}" for one, why in reasons.items() if why]
    return sentences
