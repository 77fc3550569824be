"""Datasets and loaders: one batch, one contract.

A batch to inspect holds views (utils/views.py), one to train on image (B,3,S,S) uint8. Both hold mask
(B,1,S,S) float32 of 0 and 1; category and path, lists of B names (path is the record's image_path). Every
random choice depends on (seed, epoch, index) alone, so neither the number of workers nor an interruption
changes what a run sees.
"""

from __future__ import annotations

import hashlib
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from data.augment import add_defect, chance, mosaic, random_crop
from data.images import open_image
from data.masks import mask_files, open_mask
from data.photographs import AS_IT_IS, PhotographReader, image_to_pixels, mask_to_tensor, views_of
from data.records import Record, stable_seed
from utils.config import SYNTHETIC
from utils.errors import DataError
from utils.limits import allow_pixels, most_pixels
from utils.text import printable
from utils.tile_layout import TileLayout
from utils.views import Views

MOSAIC_PROBABILITY = 0.3
CROP_PROBABILITY = 0.6
DEFECT_PROBABILITY = 0.5  # of a normal image, with synthetic defects


class InspectionDataset(Dataset):
    """The records as they are. Items: views of one image, with tiles in a `layout`; mask (1,S,S); category;
    path.

    A record without a mask has a mask of zeros. An unreadable file raises DataError when its item is taken.
    """

    def __init__(
        self, root: Path, records: Sequence[Record], image_size: int, reader: PhotographReader = AS_IT_IS
    ):
        self.root, self.records = root, list(records)
        self.image_size, self.reader = image_size, reader
        self.layout: TileLayout | None = None  # set once the references are known

    def __len__(self) -> int:
        return len(self.records)

    def photograph(self, record: Record) -> Image.Image:
        """One of its records' RGB photographs, as a detector takes it; DataError."""
        return self.reader.read(self.root / record.image_path)

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        image = self.photograph(record)
        mask = open_mask(self.root / record.mask_path) if record.mask_path else None
        return {
            "views": views_of(image, self.image_size, self.layout),
            "mask": mask_to_tensor(mask, self.image_size),
            "category": record.category,
            "path": record.image_path,
        }


class TrainingDataset(Dataset):
    """The records with the augmentation "mosaic" (published for MVTec AD), "crop" (for VisA), one of
    SYNTHETIC (half of the normal images with a synthetic defect) or "none".

    An item's key is epoch * len + index, as EpochSampler gives it. Of defects without a mask the heads would
    learn that defects are normal: there may be none (`with_masks`).
    """

    def __init__(
        self, root: Path, records: Sequence[Record], image_size: int, augmentation: str, seed: int = 0
    ):
        self.root, self.records = root, list(records)
        self.image_size, self.augmentation, self.seed = image_size, augmentation, seed
        self.of_category = defaultdict(list)
        for record in self.records:
            self.of_category[record.category].append(record)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int) -> dict:
        epoch, index = divmod(key, len(self.records))
        record = self.records[index]
        generator = torch.Generator().manual_seed(stable_seed(self.seed, epoch, index))
        pixels, mask = self._augmented(record, generator)
        return {"image": pixels, "mask": mask, "category": record.category, "path": record.image_path}

    def _augmented(self, record: Record, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        if self.augmentation == "mosaic" and chance(MOSAIC_PROBABILITY, generator):
            others = self.of_category[record.category]
            chosen = torch.randint(len(others), (4,), generator=generator).tolist()
            return mosaic([load(self.root, others[i]) for i in chosen], self.image_size)
        image, mask = load(self.root, record)
        pixels, mask = image_to_pixels(image, self.image_size), mask_to_tensor(mask, self.image_size)
        if self.augmentation == "crop" and chance(CROP_PROBABILITY, generator):
            return random_crop(pixels, mask, record.anomalous, generator)
        may_be_defective = self.augmentation in SYNTHETIC and not record.anomalous
        if may_be_defective and chance(DEFECT_PROBABILITY, generator):
            return add_defect(pixels, self._another(generator), generator)
        return pixels, mask

    def _another(self, generator: torch.Generator) -> torch.Tensor:
        """A random photograph (3,S,S) uint8 of the dataset, as texture for a synthetic defect."""
        index = int(torch.randint(len(self.records), (), generator=generator))
        image = open_image(self.root / self.records[index].image_path)
        return image_to_pixels(image, self.image_size)


def files_digest(root: str | Path, records: Iterable[Record]) -> str:
    """Hex digest of the names and sizes of the records' files, in order: it changes with the dataset.

    Raises DataError for a missing file.
    """
    digest = hashlib.sha256()
    for record in records:
        for path in filter(None, (record.image_path, record.mask_path)):
            try:
                size = _size_of(Path(root) / path)
            except OSError as error:
                raise DataError(
                    f"{printable(Path(root) / path)}: cannot be found ({error.strerror}); put the file back "
                    "or write meta.json again"
                ) from error
            digest.update(f"{path}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _size_of(path: Path) -> str:
    """A file's size as text; of a folder of masks each one's name and size."""
    if not path.is_dir():
        return str(path.stat().st_size)
    return ",".join(f"{file.name}:{file.stat().st_size}" for file in mask_files(path))


def load(root: Path, record: Record) -> tuple[Image.Image, Image.Image | None]:
    """A record's RGB photograph and its mask (None where it has none); raises DataError."""
    image = open_image(root / record.image_path)
    return image, open_mask(root / record.mask_path) if record.mask_path else None


class EpochSampler(Sampler[int]):
    """Keys epoch * n + index for every index of an epoch, shuffled by (seed, epoch) alone. Iterated, it gives
    the share of process `rank` of `size`: every `size`-th batch of `batch_size` keys.

    set_epoch(epoch, start) chooses the epoch before it is iterated; the first `start` keys, which an
    interrupted run has seen, are left out.
    """

    def __init__(self, n: int, seed: int = 0, batch_size: int = 1, rank: int = 0, size: int = 1):
        self.n, self.seed, self.batch_size, self.rank, self.size = n, seed, batch_size, rank, size
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.epoch, self.start = epoch, start

    def keys(self) -> list[int]:
        """Those of all processes."""
        generator = torch.Generator().manual_seed(stable_seed("order", self.seed, self.epoch))
        order = torch.randperm(self.n, generator=generator)
        return (self.epoch * self.n + order[self.start :]).tolist()

    def __iter__(self) -> Iterator[int]:
        keys, step = self.keys(), self.size * self.batch_size
        for start in range(self.rank * self.batch_size, len(keys), step):
            yield from keys[start : start + self.batch_size]


def make_loader(
    dataset: Dataset, batch_size: int, workers: int = 0, sampler: Sampler | None = None, pin: bool = False
) -> DataLoader:
    """Batches of the dataset, in order unless a sampler is given; workers stay alive between epochs.

    A worker's DataError arrives here as DataError with its own sentence. The global random state is not
    touched.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_collated,
        persistent_workers=workers > 0,
        worker_init_fn=partial(_begin_worker, most_pixels()),
        generator=torch.Generator().manual_seed(0),
    )


def _collated(items: list[dict]) -> dict:
    batch = {} if "views" not in items[0] else {"views": Views.joined([item.pop("views") for item in items])}
    return default_collate(items) | batch


def _begin_worker(pixels: int, _worker: int) -> None:
    """Ctrl-C reaches every process of the terminal: only the parent handles it, and its workers end with
    it."""
    allow_pixels(pixels)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
