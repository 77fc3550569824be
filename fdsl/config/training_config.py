"""What a checkpoint says of its heads: a training's typed settings, their JSON values, and what makes two of
them the same. Those of a test run are in fdsl/config/run_config.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from utils.config import PLACES, SYNTHETIC, BackboneConfig, MachineFacts, MethodConfig
from utils.errors import ConfigError
from utils.options import as_stored, from_stored, is_stored_text, refuse_other_names, without
from utils.text import one_line

# What decides no heads: where files lie, and the rest of the machine's facts.
NOT_OF_A_TRAINING = ("machine", *PLACES, "files", "image_digests")


@dataclass(frozen=True)
class TrainingSettings:
    """How heads were trained.

    `image_digests`, `files`: digests of the images trained on, and of these with the references. `images`:
    how many each category has.
    """

    epochs: int
    k_shot: int
    batch_size: int
    learning_rate: float
    augmentation: str
    seed: int
    image_digests: str
    files: str
    images: dict[str, int]
    machine: MachineFacts

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "machine": self.machine.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingSettings:
        """From a checkpoint's values; ConfigError for what no training writes."""
        refuse_other_names(cls, values)
        right = (
            all(type(values[name]) is int for name in ("epochs", "k_shot", "batch_size", "seed"))
            and all(is_stored_text(values[name]) for name in ("augmentation", "image_digests", "files"))
            and type(values["learning_rate"]) in (int, float)
            and type(values["images"]) is dict
            and all(type(count) is int for count in values["images"].values())
        )
        if not right:
            raise ConfigError("it holds values that no training writes")
        return cls(**{**values, "machine": MachineFacts.from_json(values["machine"])})


@dataclass(frozen=True)
class TrainedWith:
    """What a checkpoint says of its heads: the backbone with its weights' fingerprint, and their training."""

    backbone: BackboneConfig
    options: MethodConfig
    fingerprint: str
    dataset: str
    training: TrainingSettings

    def to_json(self) -> dict[str, Any]:
        return {
            "backbone": as_stored(self.backbone),
            "options": as_stored(self.options),
            "fingerprint": self.fingerprint,
            "dataset": self.dataset,
            "training": self.training.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainedWith:
        """From a checkpoint's values; ConfigError says in a few words what no training writes."""
        try:
            config = cls(
                from_stored(BackboneConfig, values["backbone"]),
                from_stored(MethodConfig, values["options"]),
                values["fingerprint"],
                values["dataset"],
                TrainingSettings.from_json(values["training"]),
            )
            if len(values) > len(fields(cls)):
                raise ConfigError("it holds more than a training writes")
        except KeyError as error:
            raise ConfigError(f"{error.args[0]} is missing") from error
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"it holds values that no training writes: {one_line(error, 60)}") from error
        if not all(is_stored_text(text) for text in (config.fingerprint, config.dataset)):
            raise ConfigError("it holds values that no training writes")
        return config

    @property
    def trained_on(self) -> str:
        """The training set's name, with what was drawn on it."""
        drawn = {
            SYNTHETIC["only"]: f"drawn defects on {self.dataset}",
            SYNTHETIC["mixed"]: f"{self.dataset} and drawn defects",
        }
        return drawn.get(self.training.augmentation, self.dataset)

    def in_precision(self, precision: str) -> TrainedWith:
        """The training whose values overflowed in the precision asked for, so that `precision` took over."""
        machine = self.training.machine.in_precision(precision)
        return replace(self, training=replace(self.training, machine=machine))

    def identity(self) -> dict[str, Any]:
        """Setting -> value that two trainings must share to give the same heads from the same images.

        The machine and the places of files do not count, the precision that was asked for does.
        """
        values, machine = self.to_json(), self.training.machine
        flat = {
            **values["backbone"],
            **values["options"],
            **values["training"],
            "dataset": self.dataset,
            "weights": self.fingerprint,
            "precision": machine.precision_asked or machine.precision,
        }
        return without(flat, NOT_OF_A_TRAINING)
