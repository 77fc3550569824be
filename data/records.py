"""Records of labelled images, the catalogue of a dataset, the sampling of its references, and what the module
of each dataset declares. How to add one: docs/extending.md."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from utils.errors import DataError
from utils.text import natural_key, printable


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


DATASETS = ("mvtec", "visa", "folder")
Counts = tuple[int, int, int]  # normal training, normal test and anomalous test images


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
