"""Checkpoints of the trained heads: safetensors with their configuration, and the published code's format."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from utils.config import ConfigError
from utils.files import whole_file

METADATA_KEY = "fdsl"
FORMAT_VERSION = 1
PUBLISHED_KEY = "trainable_RR"


@dataclass(frozen=True)
class Checkpoint:
    """The heads' state dict and the configuration they were trained with (empty for published files)."""

    path: Path
    state: dict[str, Tensor]
    config: dict[str, Any]
    published: bool = False

    @property
    def width(self) -> int:
        """C, the token width that the heads expect."""
        return self.state["heads.0.layers.0.weight"].shape[0]

    @property
    def blocks(self) -> int:
        """L, the number of tapped blocks."""
        return 1 + max(int(name.split(".")[1]) for name in self.state if name.startswith("heads."))

    @property
    def has_nam(self) -> bool:
        return any(name.startswith("nam.") for name in self.state)


def save_checkpoint(path: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Writes heads and configuration to `path`, whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    told = json.dumps({"format": FORMAT_VERSION, **config}, sort_keys=True)
    with whole_file(path, "wb") as file:
        file.write(save(tensors, metadata={METADATA_KEY: told}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint of this project (.safetensors) or of the published code (a torch file, read without
    executing anything). Raises ConfigError with one sentence for anything else."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"There is no checkpoint {path}; train it with train.py or name one with --checkpoint.")
    checkpoint = _load_own(path) if path.suffix == ".safetensors" else _load_published(path)
    if "heads.0.layers.0.weight" not in checkpoint.state:
        raise ConfigError(f"{path} holds no FDSL heads.")
    bad = sorted(name for name, value in checkpoint.state.items() if not torch.isfinite(value).all())
    if bad:
        raise ConfigError(f"{path} holds values that are not finite ({', '.join(bad[:3])}); train it again.")
    return checkpoint


def is_trained(path: Path, config: dict[str, Any]) -> bool:
    """Whether `path` is a whole checkpoint that was trained with `config`, whatever the machine and file places."""
    def essence(values: dict[str, Any]) -> dict[str, Any]:
        training = {name: value for name, value in values["training"].items() if name != "machine"}
        backbone = {name: value for name, value in values["backbone"].items() if name not in ("pretrained", "model_config")}
        return {**{name: values[name] for name in ("method", "fingerprint", "dataset")}, "training": training,
                "backbone": backbone, "precision": values["training"]["machine"]["precision"]}

    try:
        return essence(load_checkpoint(path).config) == essence(config)
    except (ConfigError, KeyError, TypeError):
        return False


def _load_own(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a whole safetensors file ({error}); train it again.") from error
    if not isinstance(config, dict) or not isinstance(config.get("backbone"), dict):
        raise ConfigError(f"{path} does not say how it was trained, so it is not a checkpoint of train.py.")
    if config.get("format") != FORMAT_VERSION:
        raise ConfigError(f"{path} has format {config.get('format')}, this code reads {FORMAT_VERSION}; "
                          "use the version of the code that wrote it.")
    return Checkpoint(path, state, config)


def _load_published(path: Path) -> Checkpoint:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises what it likes
        raise ConfigError(f"{path} was refused: it is not a plain file of tensors "
                          f"({(str(error).splitlines() or ['unreadable'])[0][:120]}).") from error
    content = content.get(PUBLISHED_KEY) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"{path} is neither a checkpoint of train.py (.safetensors) nor of the published code "
                          f"(a state dict under '{PUBLISHED_KEY}').")
    state = {}
    for name, value in content.items():
        if own := published_name(name):
            state[own] = value
    return Checkpoint(path, state, {}, published=True)


def published_name(name: str) -> str | None:
    """Our name of a parameter of the published code; None for the parameters that it never uses."""
    if found := re.fullmatch(r"clsList\.(\d+)\.fbatchNorm\.(\w+)", name):
        return f"heads.{found[1]}.layers.0.{found[2]}"
    if found := re.fullmatch(r"clsList\.(\d+)\.proj\.(\d+)\.(\w+)", name):
        return f"heads.{found[1]}.layers.{int(found[2]) + 1}.{found[3]}"
    if found := re.fullmatch(r"convRes\.(conv2?)\.(\w+)", name):
        return f"nam.{'conv1' if found[1] == 'conv' else 'conv2'}.{found[2]}"
    return None
