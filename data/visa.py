"""VisA's layout: images and masks as ROOT/split_csv/1cls.csv lists them (columns object, split, label, image,
mask).

As a script it writes ROOT/meta.json and prints counts and problems: python data/visa.py [ROOT]
[--split-csv FILE] [--meta FILE]
"""

import csv
import io
import os
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.catalogue import run_script
from data.listing import list_folders, list_images, unread_below
from data.records import SPLITS, Catalogue, Layout, Record, by_path, checked_name, checked_path
from utils.command import run_command
from utils.errors import DataError
from utils.text import decoded, natural_key, one_line, printable

COLUMNS = ("object", "split", "label", "image", "mask")
LABELS = ("normal", "anomaly")

# Normal training, normal test and anomalous test images of the official split file 1cls.csv (Zou et al., ECCV
# 2022).
OFFICIAL_COUNTS = {
    "candle": (900, 100, 100),
    "capsules": (542, 60, 100),
    "cashew": (450, 50, 100),
    "chewinggum": (453, 50, 100),
    "fryum": (450, 50, 100),
    "macaroni1": (900, 100, 100),
    "macaroni2": (900, 100, 100),
    "pcb1": (904, 100, 100),
    "pcb2": (901, 100, 100),
    "pcb3": (905, 101, 100),
    "pcb4": (904, 101, 100),
    "pipe_fryum": (450, 50, 100),
}


def scan(root: str | Path, split_csv: str | Path | None = None) -> Catalogue:
    """The catalogue of those images of the split file (default: root/split_csv/1cls.csv) that exist.

    An image whose mask is missing stays, and check_catalogue reports it. Raises DataError for a file that is
    not VisA's split file, for paths that leave root, and where no image exists at all.
    """
    root = Path(root)
    file = Path(split_csv) if split_csv else root / "split_csv" / "1cls.csv"
    listed = [(split, _with_slashes(root, record)) for split, record in read_split(file)]
    found = [(split, record) for split, record in listed if os.path.lexists(root / record.image_path)]
    if not found:
        raise DataError(f"{printable(root)}: holds no image of {printable(file)}; give VisA's root folder")
    names = sorted({record.category for _, record in found}, key=natural_key)
    train, test = (
        {name: by_path(r for split, r in found if (split, r.category) == (part, name)) for name in names}
        for part in SPLITS
    )
    catalogue = Catalogue(root, train, test)
    return replace(catalogue, unused=tuple(_unused(root, catalogue, file)))


def _unused(root: Path, catalogue: Catalogue, file: Path) -> list[str]:
    """A sentence for each thing in root that the split file does not list: folders, images, masks, and
    photographs of other formats."""
    sentences = [
        f"{printable(name)}/ is not used: {printable(file)} lists none of its images"
        for name in list_folders(root)
        if name not in catalogue.test and (root / name / "Data").is_dir()
    ]
    for category in catalogue.test:
        records = [record for _, part in catalogue.splits(category) for record in part]
        listed = {path for record in records for path in (record.image_path, record.mask_path)}
        for place in (f"{category}/Data/Images", f"{category}/Data/Masks"):
            kinds = list_folders(root / place) if (root / place).is_dir() else []
            files = [f"{place}/{kind}/{name}" for kind in kinds for name in list_images(root / place / kind)]
            if more := [path for path in files if path not in listed]:
                sentences.append(
                    f"{len(more)} files in {printable(place)}/ are not used, for {printable(file)} does not "
                    f"list them, the first {printable(more[0])}"
                )
    return sentences + unread_below(root)


def _with_slashes(root: Path, record: Record) -> Record:
    """The record with / for each backslash of its paths, where only the path with / exists: the split file
    was saved on Windows."""
    renamed = {}
    for name in ("image_path", "mask_path"):
        path = getattr(record, name)
        other = checked_path(path.replace("\\", "/"), printable(root)) if "\\" in path else path
        if other != path and not (root / path).exists() and (root / other).exists():
            renamed[name] = other
    return replace(record, **renamed) if renamed else record


def read_split(file: Path) -> list[tuple[str, Record]]:
    """(split, record) of every line of a VisA split file; DataError names a line that is wrong."""
    name, seen, rows = printable(file), set(), []
    try:
        with io.StringIO(decoded(file.read_bytes()), newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{name}: has no column {', '.join(missing)}; it needs {','.join(COLUMNS)}")
            for row in reader:
                where = f"{name}, line {reader.line_num}"
                split, record = _read_row(row, where)
                if (split, record.image_path) in seen:
                    raise DataError(f"{where}: lists {printable(record.image_path)} twice; remove one line")
                seen.add((split, record.image_path))
                rows.append((split, record))
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read ({error.strerror}); VisA's root holds split_csv/1cls.csv, or name "
            "another with data/visa.py --split-csv FILE --meta FILE, and give that --meta"
        ) from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{name}: is no CSV file ({one_line(error)}); use VisA's own split file") from error
    return rows


def _read_row(row: dict, where: str) -> tuple[str, Record]:
    if None in row or None in row.values():
        raise DataError(f"{where}: has another number of fields than the header; correct the line")
    if row["split"] not in SPLITS or row["label"] not in LABELS:
        raise DataError(f"{where}: split is one of {', '.join(SPLITS)} and label one of {', '.join(LABELS)}")
    category, anomalous = checked_name(row["object"], where), row["label"] == "anomaly"
    mask = checked_path(row["mask"], where) if anomalous and row["mask"] else ""
    defect = "bad" if anomalous else "good"
    return row["split"], Record(checked_path(row["image"], where), mask, category, defect, anomalous)


LAYOUT = Layout("visa", scan, OFFICIAL_COUNTS)

if __name__ == "__main__":
    run_command(lambda _: run_script(LAYOUT, Path(__file__).with_suffix(""), __doc__))
