"""Labelled photographs: which are good and which are not, from a folder or a table."""

from __future__ import annotations

import csv
from pathlib import Path

from data.folder import NORMAL_NAMES, scan
from utils.errors import DataError
from utils.text import printable

GOOD_LABELS = frozenset(("0", "false", "no", "normal", *NORMAL_NAMES))


def read_labels(source: Path) -> tuple[list[Path], list[bool]]:
    """Paths of the photographs and whether each is anomalous.

    A folder: good/ (or ok, normal) and any defect folders, as data/folder.py reads them; of train/ and test/
    the test part. A CSV file with a header `image,label`: paths relative to the file; 0, good, ok, normal, no
    or false are good, anything else is not. Raises DataError.
    """
    source = Path(source)
    if source.is_dir():
        records = [record for part in scan(source).test.values() for record in part]
        return [source / record.image_path for record in records], [record.anomalous for record in records]
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{printable(source)}: cannot be read as labels ({error}); give a folder or a CSV file"
        ) from error
    if not rows or not {"image", "label"} <= set(rows[0]):
        raise DataError(f"{printable(source)}: needs the columns image and label and at least one row")
    if any(not row["image"] or row["label"] in (None, "") for row in rows):
        raise DataError(f"{printable(source)}: a row has no image or no label; fill it in or remove it")
    return (
        [source.parent / row["image"] for row in rows],
        [row["label"].strip().casefold() not in GOOD_LABELS for row in rows],
    )
