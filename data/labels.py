"""Labelled photographs, normal or anomalous, from a folder or a table."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

from data.category_folders import NORMAL_NAMES
from data.folder import scan
from utils.console import warn
from utils.errors import DataError
from utils.text import decoded, printable

logger = logging.getLogger("fdsl")

NORMAL_LABELS = frozenset(
    ("false", "no", "n", "normal", "pass", "passed", "io", "i.o.", "negative", "neg", "inlier", *NORMAL_NAMES)
)
ANOMALOUS_LABELS = frozenset(
    "true,yes,y,bad,anomaly,anomalous,abnormal,defect,defective,broken,fail,failed,nok,not ok,ng,nio,n.i.o.,"
    "positive,pos,outlier,reject,rejected".split(",")
)


def read_labels(source: Path) -> tuple[list[Path], list[bool]]:
    """The paths of labelled photographs, and whether each is anomalous.

    A folder: good/ (or ok, normal) and any defect folders, as data/folder.py reads them; with train/ and
    test/ those in test/. A CSV file with a header `image,label`: paths relative to the file, labels as
    `anomalous` reads them. Raises DataError.
    """
    source = Path(source)
    if source.is_dir():
        catalogue = scan(source)
        warn(catalogue.unused)
        records = [record for category in catalogue.test.values() for record in category]
        return [source / record.image_path for record in records], [record.anomalous for record in records]
    name = printable(source)
    try:
        text = decoded(source.read_bytes())
        header = re.split(r"[\r\n]", text, maxsplit=1)[0]
        mark = next((mark for mark in ";\t" if mark in header), ",")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{name}: cannot be read as labels ({error}); give a folder or a CSV file") from error
    if not rows or not {"image", "label"} <= set(rows[0]):
        raise DataError(f"{name}: needs the columns image and label and at least one row")
    if any(not row["image"] or row["label"] in (None, "") for row in rows):
        raise DataError(f"{name}: a row has no image or no label; fill it in or remove it")
    try:
        are_anomalous = anomalous([row["label"] for row in rows])
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    return [source.parent / row["image"].replace("\\", "/") for row in rows], are_anomalous


def anomalous(labels: Sequence[str]) -> list[bool]:
    """Whether each label means an anomalous photograph; logs how each was read.

    Words in any case: NORMAL_LABELS and ANOMALOUS_LABELS. Numbers: 0 is normal, others are anomalous; where
    there is a -1, that is anomalous and 1 is normal, as in scikit-learn. DataError for any other word, whose
    meaning is not guessed.
    """
    clean = [label.strip().casefold() for label in labels]
    numbers = {label: number for label in set(clean) if (number := _number(label)) is not None}
    signed = -1 in numbers.values()
    if signed and not set(numbers.values()) <= {-1, 1}:
        raise DataError("its labels hold -1 and other numbers than 1; write normal and anomalous instead")
    meaning: dict[str, bool] = {}
    unknown = []
    for label in dict.fromkeys(clean):
        if label in numbers:
            meaning[label] = numbers[label] == -1 if signed else numbers[label] != 0
        elif label in NORMAL_LABELS or label in ANOMALOUS_LABELS:
            meaning[label] = label in ANOMALOUS_LABELS
        else:
            unknown.append(label)
    if unknown:
        raise DataError(
            f"is {', '.join(map(printable, unknown[:3]))}{' ...' if len(unknown) > 3 else ''} normal or "
            "anomalous? Write normal (good, ok, pass, 0) or anomalous (nok, fail, defect, 1) as label"
        )
    for bad in (False, True):
        words = [f"{printable(label)} ({clean.count(label)})" for label in meaning if meaning[label] == bad]
        logger.info("labels read as %s: %s", "anomalous" if bad else "normal", ", ".join(words) or "none")
    return [meaning[label] for label in clean]


def _number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
