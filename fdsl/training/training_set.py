"""The images of a training: a dataset's test images with masks, and each category's references."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.catalogue import find_duplicates
from data.dataset import files_digest
from data.images import image_size
from data.masks import open_mask, rotation_doubt, size_doubt
from data.records import Catalogue, Record, sample_references, sampling_key, with_masks, without_references
from utils.config import ONLY_SYNTHETIC, SEVERAL, SYNTHETIC
from utils.console import warn
from utils.errors import DataError
from utils.text import printable


@dataclass(frozen=True)
class TrainingSet:
    """The images of `records` under `root`, which are compared with the `references` of their category.
    `images`: their number in each category. `parts`: the datasets that it was joined from."""

    root: Path
    records: list[Record]
    references: dict[str, list[Record]]
    images: dict[str, int] = field(default_factory=dict)
    parts: tuple[TrainingSet, ...] = ()

    def digest(self) -> str:
        """A digest of all files that the training reads."""
        if self.parts:
            return SEVERAL.join(part.digest() for part in self.parts)
        references = [record for records in self.references.values() for record in records]
        return files_digest(self.root, [*self.records, *references])

    def images_digest(self) -> str:
        """A digest of the files that are trained on, without the references."""
        if self.parts:
            return SEVERAL.join(part.images_digest() for part in self.parts)
        return files_digest(self.root, self.records)

    def check_masks(self) -> None:
        """DataError for a mask of another size than its photograph, which would mark another place; warns of
        masks that EXIF data may not have rotated. Reads headers only."""
        doubtful = []
        for record in self.records:
            if not record.mask_path:
                continue
            mask = self.root / record.mask_path
            size = open_mask(mask).size if mask.is_dir() else image_size(mask, False)
            photo = self.root / record.image_path
            if doubt := size_doubt(size, image_size(photo, False)):
                raise DataError(f"{printable(mask)}: {doubt}")
            if doubt := rotation_doubt(mask, photo):
                doubtful.append(f"{printable(mask)}: {doubt}")
        warn(doubtful)

    def warn_of_duplicates(self) -> None:
        """Warns of images to train on that are copies of references."""
        for category, references in self.references.items():
            images = [record for record in self.records if record.category == category]
            warn(find_duplicates(self.root, references, without_references(images, references)))


def join_training_sets(parts: Sequence[TrainingSet]) -> TrainingSet:
    """Several datasets as one, under the folder that holds them all. DataError where two of them have a
    category of the same name, whose references would be confused."""
    root = Path(os.path.commonpath([part.root.resolve() for part in parts]))
    records: list[Record] = []
    references: dict[str, list[Record]] = {}
    for part in parts:
        if twice := sorted({record.category for record in part.records} & {one.category for one in records}):
            raise DataError(
                f"category {printable(twice[0])} is in two of the datasets; rename its folder in one of them"
            )
        place = part.root.resolve().relative_to(root)
        records += [_from(place, record) for record in part.records]
        references |= {
            name: [_from(place, record) for record in of_category]
            for name, of_category in part.references.items()
        }
    images = {name: count for part in parts for name, count in part.images.items()}
    return TrainingSet(root, records, references, images, tuple(parts))


def _from(place: Path, record: Record) -> Record:
    """The record of a dataset that lies at `place` under another root."""
    image, mask = (path and (place / path).as_posix() for path in (record.image_path, record.mask_path))
    return replace(record, image_path=image, mask_path=mask)


def sample_training_set(
    catalogue: Catalogue, shots: int, seed: int, dataset: str, augmentation: str
) -> TrainingSet:
    """The training set of a dataset, with `shots` references of each category (0: heads without discrepancies
    need none); warns of images that are left out. With the augmentation ONLY_SYNTHETIC it has the normal
    training images, with MIXED these and the test images, with any other the test images.

    References and images may come from the same folder; a reference is not trained on, for it has no
    discrepancy. Raises DataError where there is no defective image, too few references, or no other image.
    """
    synthetic = augmentation in SYNTHETIC
    records = [] if augmentation == ONLY_SYNTHETIC else trainable_records(catalogue)
    if records and (left_out := sum(map(len, catalogue.test.values())) - len(records)):
        warn([f"{left_out} defective image(s) have no mask and are left out of the training"])
    if synthetic:
        records += [one for part in catalogue.train.values() for one in part if not one.anomalous]
    categories = dict.fromkeys(record.category for record in records) if shots else ()
    references = {
        category: sample_references(
            catalogue.train.get(category, []),
            shots,
            seed,
            category,
            sampling_key(dataset, catalogue, category),
        )
        for category in categories
    }
    if dataset == "folder" or synthetic:
        records = without_references(records, [one for part in references.values() for one in part])
        if not records:
            raise DataError(
                f"{catalogue.root}: every normal image is a reference, so there is none for synthetic "
                "defects; add normal images or lower --k-shot"
            )
        if all(record.anomalous for record in records):
            warn(["every normal image is a reference: lower --k-shot or add normal images to train on"])
    if synthetic:
        images = dict(Counter(record.category for record in records))
    else:
        images = {category: len(part) for category, part in catalogue.test.items()}
    return TrainingSet(catalogue.root, records, references, images)


def trainable_records(catalogue: Catalogue) -> list[Record]:
    """The test images that can be trained on; DataError where none of them is defective."""
    records = [record for part in catalogue.test.values() for record in with_masks(part)]
    if not any(record.anomalous for record in records):
        raise DataError(
            f"{catalogue.root}: there is no defective image with a mask to train on; train on a dataset with "
            "masks."
        )
    return records
