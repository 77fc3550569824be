"""The typed settings of a training: those of train.py, and those that a checkpoint stores, with their
identity. Those of a test run are in fdsl/config/run_config.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from data.records import DATASETS
from fdsl.config.resolve import backbone_config, method_config
from utils.command_line import name_part, save_interval
from utils.config import (
    AUGMENTATIONS,
    MIXED,
    ONLY_SYNTHETIC,
    PUBLISHED_AUGMENTATIONS,
    PUBLISHED_EPOCHS,
    PUBLISHED_SHOTS,
    SEVERAL,
    SYNTHETIC,
    SYNTHETIC_IMAGES,
    BackboneConfig,
    MachineFacts,
    MethodConfig,
    RuntimeOptions,
    max_pixels,
)
from utils.options import INLINE, Options, as_stored, given_of, option, without


@dataclass(frozen=True)
class Recipe(Options):
    """How heads are trained. `epochs` 0: about SYNTHETIC_IMAGES images in all."""

    group: ClassVar[str] = "training"

    epochs: int = option(
        0,
        span=(1, 10**9),
        help="default as published: 11 on visa, 5 elsewhere; with synthetic defects about "
        f"{SYNTHETIC_IMAGES:,} images in all",
    )
    k_shot: int = option(
        PUBLISHED_SHOTS,
        span=(1, 10**9),
        metavar="K",
        help="references of each category (default $default; with synthetic defects 1)",
    )
    batch_size: int = option(8, span=(1, 10**9), help="images of a step (default $default)")
    learning_rate: float = option(
        1e-3, span=(0, 1), above=True, metavar="RATE", help="learning rate of Adam (default $default)"
    )
    augmentation: str = option(
        "none",
        choices=AUGMENTATIONS,
        help="default as published for the dataset; synthetic: synthetic defects, added to normal training "
        "images, which need no masks; mixed: these, and the defects with masks",
    )
    seed: int = option(
        111, span=(0, 2**63 - 1), help="samples the references and the order of images (default $default)"
    )

    @classmethod
    def of(cls, given: Mapping[str, Any], dataset: str) -> Recipe:
        """The given options; for the others those published for the training set."""
        published = {
            "epochs": PUBLISHED_EPOCHS.get(dataset, PUBLISHED_EPOCHS["mvtec"]),
            "augmentation": PUBLISHED_AUGMENTATIONS.get(dataset, "none"),
        }
        chosen = given_of(cls, given)
        if chosen.get("augmentation") in SYNTHETIC:
            published = {"k_shot": 1}
        return cls(**{**published, **chosen})


@dataclass(frozen=True, kw_only=True)
class TrainingPlan(RuntimeOptions):
    """The settings of a training command; `given`: those of recipe, method and backbone."""

    group: ClassVar[str] = ""

    dataset: Sequence[str] = option(
        None, choices=DATASETS, several=True, required=True, help="one, or several to learn from together"
    )
    data_path: Sequence[Path] = option(
        None, reads=Path, several=True, help="a folder for each dataset (default data/DATASET)"
    )
    meta: Path | None = option(
        None, reads=Path, metavar="FILE", help="meta.json elsewhere than in the dataset's folder"
    )
    model_name: str = option("fdsl", reads=name_part, help="names checkpoints and results")
    checkpoints: Path = option(
        Path("checkpoints"), reads=Path, metavar="DIR", help="folder of all trained heads (default $default)"
    )
    force: bool = option(False, group=Recipe.group, help="train again though the same checkpoint is there")
    resume: bool = option(
        True,
        group=Recipe.group,
        help="go on with an unfinished training of the same settings (default), or start it anew",
    )
    save_every: tuple[int | None, float | None] = option(
        save_interval("1m"),
        reads=save_interval,
        group=Recipe.group,
        metavar="N|TIME",
        help="store the state each N steps (50) or TIME (30s, 5m, 1h), and each epoch (default 1m)",
    )
    max_pixels: int = max_pixels()

    @property
    def trained_on(self) -> str:
        """The name of the training set: of several datasets all names."""
        return SEVERAL.join(self.dataset)

    @cached_property
    def backbone(self) -> BackboneConfig:
        """ConfigError for one that cannot be."""
        return backbone_config(self.given)

    @cached_property
    def options(self) -> MethodConfig:
        return method_config(self.given)

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.of(self.given, self.trained_on)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Options):
    """How heads were trained, and on which images.

    `image_digests`, `files`: digests of the images trained on, and of these with the references. `images`:
    their number in each category.
    """

    recipe: Recipe = field(metadata=INLINE)
    image_digests: str = option("", place=True)
    files: str = option("", place=True)
    images: dict[str, int]
    machine: MachineFacts


@dataclass(frozen=True, kw_only=True)
class TrainedWith(Options):
    """The configuration in a checkpoint: the backbone with its weights' fingerprint, and the training."""

    backbone: BackboneConfig
    options: MethodConfig
    fingerprint: str = option("")
    dataset: str = option("")
    training: TrainingSettings

    @property
    def trained_on(self) -> str:
        """The training set's name, with the synthetic defects on it."""
        names = {
            ONLY_SYNTHETIC: f"synthetic defects on {self.dataset}",
            MIXED: f"{self.dataset} and synthetic defects",
        }
        return names.get(self.training.recipe.augmentation, self.dataset)

    def in_precision(self, precision: str) -> TrainedWith:
        """This training after values overflowed in the requested precision and `precision` took over."""
        machine = self.training.machine.in_precision(precision)
        return replace(self, training=replace(self.training, machine=machine))

    def identity(self) -> dict[str, Any]:
        """Setting -> value that two trainings must share to give the same heads from the same images.

        The machine and the places of files do not count, the requested precision does.
        """
        values, machine = as_stored(self, places=False), self.training.machine
        flat = {
            **values["backbone"],
            **values["options"],
            **values["training"],
            "dataset": self.dataset,
            "weights": self.fingerprint,
            "precision": machine.precision_asked or machine.precision,
        }
        return without(flat, ["machine"])
