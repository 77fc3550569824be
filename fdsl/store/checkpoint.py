"""Checkpoints of the trained heads: safetensors with their configuration, and the published code's format.

Nothing in a file is ever executed, and anything but FDSL's heads is refused with a sentence.
"""

from __future__ import annotations

import logging
import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdsl.config.training_config import TrainedWith
from fdsl.store.tensor_file import read_tensor_file, refuse_strange, write_tensor_file
from models.backbones.weights_io.read_weights import refused_object
from models.methods.fdsl import Fdsl
from utils.config import BackboneConfig, MethodConfig
from utils.errors import ConfigError
from utils.files import CHECKSUM
from utils.options import as_stored, differing, from_stored, without
from utils.text import one_line

logger = logging.getLogger("fdsl")
METADATA_KEY = "fdsl"
FORMAT_VERSION = 1
PUBLISHED_KEY = "trainable_RR"


@dataclass(frozen=True)
class Checkpoint:
    """The heads' state dict and their training's configuration (None for published files, which have
    none)."""

    path: Path
    state: dict[str, Tensor]
    config: TrainedWith | None

    @property
    def backbone(self) -> BackboneConfig | None:
        return None if self.config is None else self.config.backbone

    @property
    def options(self) -> MethodConfig | None:
        return None if self.config is None else self.config.options

    @property
    def trained_on(self) -> str | None:
        """The training set's name, with the synthetic defects on it."""
        return None if self.config is None else self.config.trained_on

    @property
    def width(self) -> int:
        """C, the token width that the heads expect."""
        return self.state["heads.0.layers.0.weight"].shape[0]

    @property
    def blocks(self) -> int:
        """L, the number of feature layers."""
        return 1 + max(int(name.split(".")[1]) for name in self.state if name.startswith("heads."))

    @property
    def has_nam(self) -> bool:
        return any(name.startswith("nam.") for name in self.state)


def warn_of_narrow_training(checkpoint: Checkpoint) -> None:
    """Warns of heads that were trained on a single category."""
    if checkpoint.config and len(checkpoint.config.training.images) == 1:
        logger.warning(
            "These heads were trained on a single category: such heads generalise worse than method nearest."
        )


def save_checkpoint(path: Path, state: dict[str, Tensor], config: TrainedWith) -> None:
    """Writes heads and configuration to `path`, whole or not at all."""
    write_tensor_file(path, state, METADATA_KEY, {"format": FORMAT_VERSION, **as_stored(config)})


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint of this project (.safetensors) or of the published code (a torch file, read without
    executing anything). Raises ConfigError with one sentence for anything else."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"There is no checkpoint {path}; train it with train.py or name one with --checkpoint."
        )
    checkpoint = _load_own(path) if path.suffix == ".safetensors" else _load_published(path)
    _check_state(path, checkpoint.state)
    return checkpoint


def _check_state(path: Path, state: dict[str, Tensor]) -> None:
    """ConfigError for tensors that are not exactly FDSL's heads."""
    first = state.get("heads.0.layers.0.weight")
    if first is None or not first.numel():
        raise ConfigError(f"{path} holds no FDSL heads.")
    numbers = {match[1] for name in state if (match := re.match(r"heads\.([0-9]+)\.", name))}
    with torch.device("meta"):
        heads = Fdsl(len(first), len(numbers), with_nam=any(name.startswith("nam.") for name in state))
    try:
        heads.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ConfigError(
            f"{path} does not hold FDSL's heads ({one_line(error, 300)}); train it again."
        ) from error


def _trained_with(path: Path, config: Any) -> TrainedWith:
    """The stored configuration; ConfigError for one that no training writes."""
    if not isinstance(config, dict) or not isinstance(config.get("backbone"), dict):
        raise ConfigError(f"{path} has no training configuration, so it is not a checkpoint of train.py.")
    if config.get("format") != FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {one_line(config.get('format'), 40)}, this code reads {FORMAT_VERSION}; "
            "use the version of the code that wrote it."
        )
    try:
        return from_stored(TrainedWith, without(config, ["format", CHECKSUM]))
    except ConfigError as error:
        raise ConfigError(
            f"{path}: its configuration cannot be read ({one_line(error)}); train it again."
        ) from error


def is_trained(path: Path, config: TrainedWith) -> bool:
    """Whether `path` is a complete checkpoint that was trained with `config` on the same images, whatever the
    machine and the places of files."""
    try:
        stored = load_checkpoint(path).config
    except ConfigError:
        return False
    return (
        stored is not None
        and not differences(stored, config)
        and stored.training.files == config.training.files
    )


def differences(stored: TrainedWith, config: TrainedWith) -> list[str]:
    """The names of the settings of identity in which two trainings differ."""
    return differing(stored.identity(), config.identity())


def _load_own(path: Path) -> Checkpoint:
    try:
        config, state = read_tensor_file(path, METADATA_KEY)
    except ValueError as error:
        raise ConfigError(f"{path} {error}; train it again.") from error
    return Checkpoint(path, state, _trained_with(path, config))


def _load_published(path: Path) -> Checkpoint:
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, on kinds of tensors that are refused here
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(f"{path} was refused: {refused_object(error)}; save its tensors alone.") from error
    except Exception as error:  # pickle raises what it likes
        raise ConfigError(
            f"{path} was refused: it is not a plain file of tensors ({one_line(error, 120)})."
        ) from error
    content = content.get(PUBLISHED_KEY) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} is neither a checkpoint of train.py (.safetensors) nor of the published code "
            f"(a state dict under '{PUBLISHED_KEY}')."
        )
    try:
        refuse_strange(content)
    except ValueError as error:
        raise ConfigError(f"{path} {error}; name the file that the published code wrote.") from error
    state = {own: value for name, value in content.items() if (own := published_name(name))}
    return Checkpoint(path, state, None)


def published_name(name: str) -> str | None:
    """Our name of a parameter of the published code; None for the parameters that it never uses."""
    if match := re.fullmatch(r"clsList\.([0-9]{1,4})\.fbatchNorm\.(\w+)", name):
        return f"heads.{match[1]}.layers.0.{match[2]}"
    if match := re.fullmatch(r"clsList\.([0-9]{1,4})\.proj\.([0-9]{1,4})\.(\w+)", name):
        return f"heads.{match[1]}.layers.{int(match[2]) + 1}.{match[3]}"
    if match := re.fullmatch(r"convRes\.(conv2?)\.(\w+)", name):
        return f"nam.{'conv1' if match[1] == 'conv' else 'conv2'}.{match[2]}"
    return None
