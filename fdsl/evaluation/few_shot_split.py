"""The photographs of a test run: its references and its test images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from data.catalogue import open_catalogue
from data.dataset import files_digest
from data.folder import VALIDATION
from data.listing import list_images
from data.records import (
    Catalogue,
    Record,
    sample_references,
    sampling_key,
    stable_seed,
    with_masks,
    without_references,
)
from data.region_of_interest import MaskFolders, read_roi
from data.values import find_range
from fdsl.config.describe import TRAINED_ON_TEST_IMAGES
from fdsl.config.run_config import RunConfig
from fdsl.references.transductive import sample_of
from fdsl.store.checkpoint import Checkpoint
from models.methods.registry import METHODS
from utils.config import ONLY_SYNTHETIC, OTHER_DATASET, SEVERAL
from utils.console import warn
from utils.errors import ConfigError, DataError
from utils.limits import GreyRange
from utils.text import printable

logger = logging.getLogger("fdsl")
VALIDATION_IMAGES = 10  # so many give a threshold: a tenth of a run's time


@dataclass(frozen=True)
class FewShotSplit:
    """The photographs of a run: each category's references and test images, a digest of both, the range of
    grey values of categories whose references have more than 8 bits (for transductive methods: whose test
    images have), and normal images that are neither, which give the threshold of SegF1."""

    catalogue: Catalogue
    references: dict[str, list[Record]]
    records: dict[str, list[Record]]
    files: str
    grey: dict[str, GreyRange] = field(default_factory=dict)
    validation: dict[str, list[Record]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.catalogue.root

    @property
    def names(self) -> list[str]:
        """The image paths of all test images, category by category."""
        return [record.image_path for records in self.records.values() for record in records]

    def validation_names(self, category: str) -> list[str]:
        """The image paths of a category's validation images."""
        return [record.image_path for record in self.validation.get(category, [])]

    @cached_property
    def digests(self) -> dict[str, dict[str, Any]]:
        """Category -> digests of its files, taken once, and their range of grey values. DataError for a
        missing file."""
        return {
            category: {
                "references": files_digest(self.root, self.references[category]),
                "files": files_digest(self.root, records),
                "validation": files_digest(self.root, self.validation.get(category, [])),
                **({"grey": [grey.low, grey.high]} if (grey := self.grey.get(category)) else {}),
            }
            for category, records in self.records.items()
        }

    def has_trained(self, checkpoint: Checkpoint, dataset: str) -> bool:
        """Whether heads were trained on these test images: the same files, or the same dataset by name."""
        if checkpoint.config is None:
            return False
        here = files_digest(
            self.root, (record for part in self.catalogue.test.values() for record in with_masks(part))
        )
        training = checkpoint.config.training
        if training.recipe.augmentation == ONLY_SYNTHETIC:
            return False
        same_name = dataset in checkpoint.config.dataset.split(SEVERAL) and dataset in OTHER_DATASET
        return same_name or here in (training.image_digests or "").split(SEVERAL)


def sample_split(config: RunConfig) -> FewShotSplit:
    """The photographs of a run. References of all categories are sampled first, so that too few are refused
    at once; a category without test images is left out with a warning. Raises DataError."""
    catalogue = open_catalogue(config.dataset, config.data_path, config.meta)
    references = {
        category: sample_references(
            catalogue.train.get(category, []),
            config.k_shot,
            config.seed,
            category,
            sampling_key(config.dataset, catalogue, category),
        )
        for category in catalogue.test
    }
    records = _tested_records(catalogue, references)
    everything = [record for part in (*references.values(), *records.values()) for record in part]
    transductive = METHODS[config.detector.method].transductive
    grey = {}
    for name, tested in records.items():
        chosen = sample_of(tested) if transductive else references[name]
        files = [catalogue.root / record.image_path for record in chosen]
        span = find_range(files, config.detector.options.grey_range)
        if span is not None:
            grey[name] = span
    digest = files_digest(catalogue.root, everything)
    validation = {
        name: _validation(config, catalogue, name, references[name], records[name]) for name in records
    }
    return FewShotSplit(catalogue, references, records, digest, grey, validation)


def _validation(
    config: RunConfig,
    catalogue: Catalogue,
    category: str,
    references: Sequence[Record],
    tested: Sequence[Record],
) -> list[Record]:
    """VALIDATION_IMAGES normal images of a category that are neither references nor tested: of its
    validation/good where there is one, as MVTec lays it, else of its training images. The same ones for all
    seeds and shots, as far as these leave them. Of mask folders those that have a mask."""
    normal = [record for record in catalogue.train.get(category, []) if not record.anomalous]
    official = [one for one in map(_in_validation, normal[:1]) if (catalogue.root / one).is_dir()]
    for place in official:
        names = list_images(catalogue.root / place)
        normal = [Record(f"{place}/{name}", "", category, "good", False) for name in names]
    made = config.detector
    masks = MaskFolders.of(made.options, made.backbone.image_size, grid=1)
    others = {record.image_path for record in (*references, *tested)}
    left = [
        record
        for record in normal
        if record.image_path not in others
        and (masks is None or masks.has(catalogue.root / record.image_path))
    ]
    return sorted(left, key=lambda one: stable_seed("validation", one.image_path))[:VALIDATION_IMAGES]


def _in_validation(record: Record) -> PurePosixPath:
    """The folder of validation images next to the one of training images that a record lies in."""
    return PurePosixPath(record.image_path).parent.parent.parent / VALIDATION


def _tested_records(catalogue: Catalogue, references: dict[str, list[Record]]) -> dict[str, list[Record]]:
    tested = {
        category: without_references(records, references[category])
        for category, records in catalogue.test.items()
    }
    empty = [category for category, records in tested.items() if not records]
    warn([f"category {printable(category)} has no test image and is left out" for category in empty])
    if not any(tested.values()):
        raise DataError(f"{catalogue.root}: there is no image to test; check --data-path, or lower --k-shot.")
    return {category: records for category, records in tested.items() if records}


def _files_of(config: RunConfig, split: FewShotSplit) -> str:
    """A digest of the photographs and of the region of interest, if any; DataError for a broken mask."""
    made = config.detector
    masks = MaskFolders.of(made.options, made.backbone.image_size, grid=1)  # which are not read here
    if masks is not None:
        records = [one for part in (*split.references.values(), *split.records.values()) for one in part]
        files = split.files
        for record in records:
            files = masks.digest_with(split.root / record.image_path, files)
        return files
    roi = read_roi(made.options, made.backbone.image_size)
    if roi is None:
        return split.files
    return hashlib.sha256(split.files.encode() + roi.tobytes()).hexdigest()


def with_split(
    config: RunConfig, split: FewShotSplit, checkpoint: Checkpoint | None, from_maps: Path | None
) -> RunConfig:
    """The configuration with the facts of these photographs; ConfigError where stored maps are of others.
    Warns of heads that were trained on them."""
    files = _files_of(config, split)
    if config.files not in (None, files):
        raise ConfigError(
            f"The photographs in {config.data_path} are not those that the maps of {from_maps} are of; run "
            "test.py without --from-maps."
        )
    grey = {name: [span.low, span.high] for name, span in split.grey.items()}
    config = replace(config, files=files, grey=grey or None)
    if checkpoint is not None:
        config = replace(config, trained_on_test_images=split.has_trained(checkpoint, config.dataset))
    if config.trained_on_test_images:
        logger.warning("warning: %s", TRAINED_ON_TEST_IMAGES)
    return config
