"""Records of labelled images, the catalogue of a dataset and the file that stores it, meta.json, the sampling
of references, and what the module of each dataset declares. How to add one: docs/extending.md."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath

from utils.errors import DataError
from utils.files import whole_file
from utils.text import decoded, natural_key, printable

DATASETS = ("mvtec", "visa", "folder")
Counts = tuple[int, int, int]  # normal training, normal test and anomalous test images
SPLITS = ("train", "test")
ENTRY_KEYS = ("img_path", "mask_path", "cls_name", "specie_name", "anomaly")  # of meta.json


@dataclass(frozen=True)
class Record:
    """One image: paths relative to the dataset's root with forward slashes; mask_path is "" where there is no
    mask."""

    image_path: str
    mask_path: str
    category: str
    defect: str  # "good" for a normal image
    anomalous: bool


@dataclass(frozen=True)
class Catalogue:
    """A dataset: its root folder and, per split, the records of each category in natural order. `unused`: a
    sentence for each thing in root that is not read. `rules`: sentences on how the folder was understood."""

    root: Path
    train: dict[str, list[Record]]
    test: dict[str, list[Record]]
    unused: tuple[str, ...] = field(default=(), compare=False)
    rules: tuple[str, ...] = field(default=(), compare=False)

    @property
    def categories(self) -> list[str]:
        return sorted({*self.train, *self.test}, key=natural_key)

    def splits(self, category: str) -> list[tuple[str, list[Record]]]:
        return [("train", self.train.get(category, [])), ("test", self.test.get(category, []))]


def by_path(records: Iterable[Record]) -> list[Record]:
    """The records in natural order."""
    return sorted(records, key=lambda record: natural_key(record.image_path))


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from the parts, the same in every process and on every machine."""
    digest = hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sample_references(
    records: Iterable[Record], k: int, seed: int, category: str, key: str | None = None
) -> list[Record]:
    """k distinct normal records of the category, by a generator seeded from (seed, key); `key` is the
    category unless something else is given.

    The order of the records does not matter, and a sample of k begins with that of k - 1. Raises
    DataError where the category has fewer than k.
    """
    import torch  # for its generator only: late, for it takes seconds

    normal = {r.image_path: r for r in records if not r.anomalous and r.category == category}
    if k > len(normal):
        raise DataError(
            f"category {printable(category)}: has {len(normal)} normal training images, {k} references are "
            "wanted; add images or lower --k-shot"
        )
    ordered = [normal[path] for path in sorted(normal, key=natural_key)]
    generator = torch.Generator().manual_seed(stable_seed(int(seed), category if key is None else key))
    return [ordered[i] for i in torch.randperm(len(ordered), generator=generator)[:k].tolist()]


def sampling_key(dataset: str, catalogue: Catalogue, category: str) -> str:
    """The key of a category for `sample_references`: its name, as published. Of the dataset `folder`, which
    may be renamed, a digest of the names and sizes of its normal images."""
    if dataset != "folder":
        return category
    records = [record for record in catalogue.train.get(category, []) if not record.anomalous]
    files = [catalogue.root / record.image_path for record in records]
    facts = sorted((file.name, file.stat().st_size) for file in files if file.exists())
    return hashlib.sha256(repr(facts).encode("utf-8", "backslashreplace")).hexdigest()


def without_references(records: Iterable[Record], references: Iterable[Record]) -> list[Record]:
    """The records that are not references: an image in the memory bank is never tested."""
    used = {(reference.category, reference.image_path) for reference in references}
    return [record for record in records if (record.category, record.image_path) not in used]


def with_masks(records: Iterable[Record]) -> list[Record]:
    """The records with pixel labels, for training and pixel metrics: normal ones, and defects with a mask."""
    return [record for record in records if record.mask_path or not record.anomalous]


@dataclass(frozen=True)
class Layout:
    """How a dataset's files become a catalogue, and what is expected of them.

    name: as `--dataset` takes it. scan: from the root folder to the catalogue; raises DataError. official:
    category -> counts of the published dataset, if any. needs_masks: whether a defect without a mask is a
    fault.
    """

    name: str
    scan: Callable[..., Catalogue]
    official: Mapping[str, Counts] = field(default_factory=dict)
    needs_masks: bool = True


def layout_of(name: str) -> Layout:
    """The layout of data/NAME.py, one of DATASETS."""
    return import_module(f"data.{name}").LAYOUT


def checked_path(text: object, where: str) -> str:
    """`text`, if it is a relative path that stays inside the dataset's root; else DataError with `where`."""
    if not isinstance(text, str) or not text or "\0" in text:
        raise DataError(f"{where}: a path is missing or is not text; write meta.json or the split file again")
    separated = text.replace("\\", "/") if os.name == "nt" else text
    if PurePosixPath(separated).is_absolute() or re.match(r"[A-Za-z]:[\\/]", text):
        raise DataError(f"{where}: {printable(text)} is absolute; make it relative to the dataset's root")
    if ".." in PurePosixPath(separated).parts or not PurePosixPath(separated).parts:
        raise DataError(f"{where}: {printable(text)} leaves the dataset's root; remove its '..' or the entry")
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
            checked_name(key, name): _read_entries(entries, key, f"{name}, {split}/{printable(key)}")
            for key, entries in content[split].items()
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
    return by_path(records)


def _read_entry(entry: object, category: str, where: str) -> Record:
    if not isinstance(entry, dict) or set(entry) != set(ENTRY_KEYS):
        raise DataError(f"{where}: must hold exactly the keys {', '.join(ENTRY_KEYS)}; write meta.json again")
    if type(entry["anomaly"]) is not int or entry["anomaly"] not in (0, 1):
        raise DataError(f"{where}: 'anomaly' must be 0 or 1; write meta.json again")
    if entry["cls_name"] != category:
        raise DataError(f"{where}: 'cls_name' differs from the category above it; write meta.json again")
    anomalous = entry["anomaly"] == 1
    # Published VisA files leave specie_name empty. A normal image's mask, where a file names one, is never
    # read.
    defect = "" if entry["specie_name"] == "" else checked_name(entry["specie_name"], where)
    mask = "" if entry["mask_path"] == "" else checked_path(entry["mask_path"], where)
    image, kind = checked_path(entry["img_path"], where), "bad" if anomalous else "good"
    return Record(image, mask if anomalous else "", category, defect or kind, anomalous)
