"""meta.json, the file that stores a dataset's catalogue: written, read and checked."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath

from data.records import Catalogue, Record
from utils.errors import DataError
from utils.files import whole_file
from utils.text import decoded, natural_key, printable

SPLITS = ("train", "test")
ENTRY_KEYS = ("img_path", "mask_path", "cls_name", "specie_name", "anomaly")


def checked_path(text: object, where: str) -> str:
    """`text`, if it is a relative path that stays inside the dataset's root; else DataError with `where`."""
    if not isinstance(text, str) or not text or "\0" in text:
        raise DataError(
            f"{where}: a path is missing or is not text; write the dataset's meta.json or split file again"
        )
    separated = text.replace("\\", "/") if os.name == "nt" else text
    if PurePosixPath(separated).is_absolute() or re.match(r"[A-Za-z]:[\\/]", text):
        raise DataError(
            f"{where}: {printable(text)} is an absolute path; paths must be relative to the dataset's root"
        )
    if ".." in PurePosixPath(separated).parts or not PurePosixPath(separated).parts:
        raise DataError(
            f"{where}: {printable(text)} does not stay inside the dataset's root; remove its '..' or "
            "the entry"
        )
    return text


def checked_name(text: object, where: str) -> str:
    """`text`, if it can name a folder, as categories and defects do; else DataError with `where`."""
    forbidden = ("/", "\0", "\\") if os.name == "nt" else ("/", "\0")
    if not isinstance(text, str) or text in ("", ".", "..") or any(c in text for c in forbidden):
        raise DataError(f"{where}: {printable(text)!r} cannot name a category or a defect; use a plain name")
    return text


def write_meta(catalogue: Catalogue, file: str | Path) -> None:
    """Writes the catalogue as meta.json (the published scripts' format), whole or not at all; DataError if it
    cannot."""
    content = {
        split: {category: [_entry(record) for record in records] for category, records in part.items()}
        for split, part in (("train", catalogue.train), ("test", catalogue.test))
    }
    file = Path(file)
    try:
        file.parent.resolve(strict=True)  # no folder is made for a mistyped one
        with whole_file(file) as stream:
            stream.write(json.dumps(content, indent=4) + "\n")
    except OSError as error:
        raise DataError(
            f"{printable(file)}: cannot be written ({error.strerror}); name a file in a folder you may write "
            "to with --meta FILE"
        ) from error


def _entry(record: Record) -> dict:
    values = (record.image_path, record.mask_path, record.category, record.defect, int(record.anomalous))
    return dict(zip(ENTRY_KEYS, values))


def read_meta(file: str | Path, root: str | Path) -> Catalogue:
    """The catalogue of a meta.json; no entry may point outside root.

    Raises DataError for anything that is not exactly this format: broken JSON, unknown keys, wrong types,
    escaping paths, an image listed twice in a split.
    """
    name = printable(file)
    cure = "write it again with data/mvtec.py or data/visa.py, or name another with --meta FILE"
    try:
        content = json.loads(decoded(Path(file).read_bytes()))
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); {cure}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is not valid JSON ({printable(str(error))}); {cure}") from error
    if not isinstance(content, dict) or set(content) != set(SPLITS):
        raise DataError(f"{name}: must hold exactly the keys 'train' and 'test'; {cure}")
    if not all(isinstance(part, dict) for part in content.values()) or not any(content.values()):
        raise DataError(f"{name}: 'train' and 'test' must map categories to lists of images; {cure}")
    train, test = (
        {
            checked_name(category, name): _read_entries(
                entries, category, f"{name}, {split}/{printable(category)}"
            )
            for category, entries in content[split].items()
        }
        for split in SPLITS
    )
    return Catalogue(Path(root), train, test)


def _read_entries(entries: object, category: str, where: str) -> list[Record]:
    if not isinstance(entries, list):
        raise DataError(f"{where}: is not a list of images; write meta.json again")
    records = [_read_entry(entry, category, f"{where}[{index}]") for index, entry in enumerate(entries)]
    seen = set()
    for record in records:
        if record.image_path in seen:
            raise DataError(f"{where}: lists {printable(record.image_path)} twice; remove one of the entries")
        seen.add(record.image_path)
    return sorted(records, key=lambda record: natural_key(record.image_path))


def _read_entry(entry: object, category: str, where: str) -> Record:
    if not isinstance(entry, dict) or set(entry) != set(ENTRY_KEYS):
        raise DataError(f"{where}: must hold exactly the keys {', '.join(ENTRY_KEYS)}; write meta.json again")
    if type(entry["anomaly"]) is not int or entry["anomaly"] not in (0, 1):
        raise DataError(f"{where}: 'anomaly' must be 0 or 1; write meta.json again")
    if entry["cls_name"] != category:
        raise DataError(
            f"{where}: 'cls_name' differs from the category it is listed under; write meta.json again"
        )
    anomalous = entry["anomaly"] == 1
    # Published VisA files leave specie_name empty. A normal image's mask, where a file names one, is never
    # read.
    defect = "" if entry["specie_name"] == "" else checked_name(entry["specie_name"], where)
    mask = "" if entry["mask_path"] == "" else checked_path(entry["mask_path"], where)
    return Record(
        checked_path(entry["img_path"], where),
        mask if anomalous else "",
        category,
        defect or ("bad" if anomalous else "good"),
        anomalous,
    )
