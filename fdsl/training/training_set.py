"""What a training learns from: a dataset's test images with masks, and each category's references."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.check import find_duplicates
from data.dataset import files_digest
from data.images import image_size, open_mask, rotation_doubt, size_doubt
from data.records import Catalogue, Record, draw_key, draw_references, with_masks, without_references
from utils.config import SEVERAL
from utils.errors import DataError
from utils.log import warn
from utils.text import printable


@dataclass(frozen=True)
class TrainingSet:
    """The images of `records` under `root`, each of which meets the `references` of its own category.
    `images`: how many each category has. `parts`: the datasets that it was joined from."""

    root: Path
    records: list[Record]
    references: dict[str, list[Record]]
    images: dict[str, int] = field(default_factory=dict)
    parts: tuple[TrainingSet, ...] = ()

    def digest(self) -> str:
        """Names every file that the training reads: another digest, another training."""
        if self.parts:
            return SEVERAL.join(part.digest() for part in self.parts)
        drawn = [record for records in self.references.values() for record in records]
        return files_digest(self.root, [*self.records, *drawn])

    def images_digest(self) -> str:
        """Names the files that are trained on, without the references."""
        if self.parts:
            return SEVERAL.join(part.images_digest() for part in self.parts)
        return files_digest(self.root, self.records)

    def check_masks(self, max_pixels: int) -> None:
        """DataError for a mask of another size than its photograph, which would mark another place; warns of
        those that EXIF data may have left behind. Headers alone are read."""
        doubtful = []
        for record in self.records:
            if not record.mask_path:
                continue
            mask = self.root / record.mask_path
            size = open_mask(mask, max_pixels).size if mask.is_dir() else image_size(mask, False, max_pixels)
            photo = self.root / record.image_path
            if doubt := size_doubt(size, image_size(photo, False, max_pixels)):
                raise DataError(f"{printable(mask)}: {doubt}")
            if doubt := rotation_doubt(mask, photo, max_pixels):
                doubtful.append(f"{printable(mask)}: {doubt}")
        warn(doubtful)

    def warn_of_duplicates(self) -> None:
        """Warns of references that are among the images to learn from."""
        for category, drawn in self.references.items():
            others = [record for record in self.records if record.category == category]
            warn(find_duplicates(self.root, drawn, without_references(others, drawn)))


def join_training_sets(parts: Sequence[TrainingSet]) -> TrainingSet:
    """Several datasets as one, under the folder that holds them all. DataError where two of them have a
    category of one name, whose references would be confused."""
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
            name: [_from(place, record) for record in drawn] for name, drawn in part.references.items()
        }
    images = {name: count for part in parts for name, count in part.images.items()}
    return TrainingSet(root, records, references, images, tuple(parts))


def _from(place: Path, record: Record) -> Record:
    """The record of a dataset that lies at `place` under another root."""
    image, mask = (path and (place / path).as_posix() for path in (record.image_path, record.mask_path))
    return replace(record, image_path=image, mask_path=mask)


def draw_training_set(
    catalogue: Catalogue, shots: int, seed: int, dataset: str, synthetic: str | None = None
) -> TrainingSet:
    """Draws `shots` references of each category (0: heads that learn without discrepancies need none) and
    warns of what is left out. `synthetic`: "only" for the good training images, on which defects are drawn,
    "mixed" for these and the test images.

    References and images may come from the same folder, and a reference has no discrepancy to learn from.
    Raises DataError where there is no defective image, too few references, or nothing left but them.
    """
    records = [] if synthetic == "only" else learnable_records(catalogue)
    if records:
        left_out = sum(map(len, catalogue.test.values())) - len(records)
        warn(
            [f"{left_out} defective image(s) have no mask and are left out of the training"]
            if left_out
            else []
        )
    if synthetic:
        records += [one for part in catalogue.train.values() for one in part if not one.anomalous]
    categories = dict.fromkeys(record.category for record in records) if shots else ()
    references = {
        category: draw_references(
            catalogue.train.get(category, []), shots, seed, category, draw_key(dataset, catalogue, category)
        )
        for category in categories
    }
    if dataset == "folder" or synthetic:
        records = without_references(records, [record for drawn in references.values() for record in drawn])
        if not records:
            raise DataError(
                f"{catalogue.root}: every good image is a reference, so there is none to draw defects on; "
                "add good images or lower --k-shot"
            )
        if all(record.anomalous for record in records):
            warn(
                [
                    "every good image is a reference, so none is left to learn from: lower --k-shot or add "
                    "good images"
                ]
            )
    if synthetic:
        images = dict(Counter(record.category for record in records))
    else:
        images = {category: len(part) for category, part in catalogue.test.items()}
    return TrainingSet(catalogue.root, records, references, images)


def learnable_records(catalogue: Catalogue) -> list[Record]:
    """The test images that can be trained on; DataError where none of them is defective."""
    records = [record for part in catalogue.test.values() for record in with_masks(part)]
    if not any(record.anomalous for record in records):
        raise DataError(
            f"{catalogue.root}: there is no defective image with a mask, so there is nothing to learn; "
            "train on a dataset with masks."
        )
    return records
