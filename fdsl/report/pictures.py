"""The pictures of a category: a strip per test image, thumbnails and contact sheet, with their names."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from fdsl.report import drawing
from fdsl.report.category_view import THUMB_FOLDER, CategoryView
from fdsl.report.contact_sheet import category_sheet, ranked_choice
from utils.files import write_bytes

THUMB_SIDE = 192  # longest side of one panel of a thumbnail, pixels
THUMB_QUALITY = 72  # WebP
PICTURE_QUALITY = 88  # JPEG
MOST_SIDE = {".jpg": 65_500, ".webp": 16_383}  # pixels, of what the formats hold
NAME_LENGTH = 60  # longest file name without its ending
CONTACT_SHEET = "contact_sheet.jpg"
RESERVED_NAMES = {
    "contact_sheet",
    THUMB_FOLDER,
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10)),
}  # Windows' devices

log = logging.getLogger("fdsl")


def safe_name(text: str) -> str:
    """A file name made from any text: ASCII letters, digits, `.`, `_` and `-`, no longer than NAME_LENGTH.

    A name that had to be changed ends in a hash of the original, so that two texts never share one name.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")
    reserved = name.split(".")[0].lower() in RESERVED_NAMES
    if name and name == text and len(name) <= NAME_LENGTH and not reserved:
        return name
    name = name.replace(".", "_") if reserved else name
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: NAME_LENGTH - 9].strip('._-')}_{mark}".lstrip("_")


def picture_names(image_paths: Iterable[str], defects: Iterable[str]) -> list[str]:
    """A distinct safe name per image, `DEFECT_STEM`, also where file systems ignore case."""
    taken: set[str] = set()
    names = []
    for path, defect in zip(image_paths, defects):
        stem = path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
        name = base = safe_name(f"{defect}_{stem}")
        number = 2
        while name.lower() in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names


def write_pictures(view: CategoryView, folder: Path, limit: int | None = None) -> CategoryView:
    """Writes folder/CATEGORY/: a strip and a thumbnail per image, reference thumbnails and contact sheet;
    returns the view with their names.

    `limit` is the most strips written (None: all), the worst misses and false alarms first; thumbnails are
    made for every image. A photo or mask that cannot be read is replaced by a grey tile and named in
    `problems`.
    """
    count = len(view.image_paths)
    summary = replace(
        view,
        folder=Path(folder) / safe_name(view.name),
        scale=drawing.colour_scale(view.maps, view.labels, view.map_threshold),
        files=picture_names(view.image_paths, view.defects),
        panel_sizes=[(1, 1)] * count,
        has_strip=[limit is None] * count,
        problems=[],
    )
    (summary.folder / THUMB_FOLDER).mkdir(parents=True, exist_ok=True)
    if limit is not None:
        misses, alarms, rest = ranked_choice(summary.labels, summary.scores, limit)
        for index in [*misses, *alarms, *rest][:limit]:
            summary.has_strip[index] = True
    for index in range(count):
        _write_image(summary, index)
    for index, file in enumerate(summary.reference_files):
        photo = _read(view.reference_photo, index, view.references[index], summary.problems)
        photo = drawing.placeholder() if photo is None else photo
        size = drawing.panel_size(photo.shape[0], photo.shape[1], THUMB_SIDE)
        write_image(summary.thumbnail(file), drawing.resize(photo, *size))
    write_image(summary.folder / CONTACT_SHEET, category_sheet(summary))
    return summary


def _write_image(summary: CategoryView, index: int) -> None:
    name = summary.image_paths[index]
    photo = _read(summary.read_photo, index, name, summary.problems)
    mask = None if photo is None else _read(summary.read_mask, index, f"the mask of {name}", summary.problems)
    photo = drawing.placeholder() if photo is None else photo
    height, width = summary.panel_sizes[index] = drawing.panel_size(*photo.shape[:2])
    drawn = drawing.resize(photo, height, width), summary.maps[index], mask, summary.map_threshold
    if summary.has_strip[index]:
        picture = drawing.overlay(*drawn, summary.scale, _caption(summary, index))
        write_image(summary.folder / f"{summary.files[index]}.jpg", picture)
    small = drawing.panels(*drawn, summary.scale, THUMB_SIDE)
    write_image(summary.thumbnail(summary.files[index]), np.concatenate(small, axis=1))


def _read(
    reader: Callable[[int], np.ndarray | None], index: int, name: str, problems: list[str]
) -> np.ndarray | None:
    """What `reader` gives; None and a line in `problems` when it fails: one bad file must not cost the whole
    report."""
    try:
        picture = reader(index)
        if picture is not None and 0 in picture.shape:
            raise ValueError("it is empty")
        return picture
    except Exception as error:
        problems.append(f"{name}: {error}")
        log.warning("no picture of %s: %s", name, error)
        return None


def verdict(label: bool, score: float, threshold: float | None) -> str:
    """detected, missed, false alarm or passed; "" without a threshold. An alarm is a score >= threshold."""
    if threshold is None:
        return ""
    return ("passed", "false alarm", "missed", "detected")[2 * bool(label) + bool(score >= threshold)]


def _caption(item: CategoryView, index: int) -> str:
    label, score, threshold = item.labels[index], item.scores[index], item.score_threshold
    judged = (
        ""
        if threshold is None
        else f", {verdict(label, score, threshold)} at threshold {threshold:.{item.digits}g}"
    )
    path, defect = (" ".join(names[index].split()) for names in (item.image_paths, item.defects))
    return f"score {score:.{item.digits}g}{judged}, {f'defect: {defect}' if label else 'normal'}\n{path}"


def write_image(path: Path, picture: np.ndarray) -> None:
    """Writes an RGB picture as JPEG or WebP, by the name's ending, smaller where it is larger than the format
    holds; the name appears only when the file is complete. OSError for what cannot be encoded."""
    quality = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, THUMB_QUALITY],
    }
    most = max(picture.shape[:2]) / MOST_SIDE[path.suffix]
    if most > 1:
        height, width = (max(1, int(side / most)) for side in picture.shape[:2])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    whole, encoded = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality[path.suffix])
    if not whole:
        raise OSError(f"{path}: a picture of {picture.shape[1]}x{picture.shape[0]} px cannot be encoded")
    write_bytes(path, encoded.tobytes())
