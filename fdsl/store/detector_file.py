"""One file with everything a detector needs: memory bank, heads, threshold and configuration
(safetensors)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fdsl.run_config import FittedConfig
from fdsl.thresholds import Threshold
from utils.errors import ConfigError
from utils.files import whole_file

METADATA_KEY = "fdsl_detector"
FORMAT_VERSION = 2
NEEDED = (
    "heads",
    "backbone",
    "method",
    "windows",
    "machine",
    "fingerprint",
    "image_score",
    "references",
    "rotations",
)


def save_detector(
    path: Path, tensors: Mapping[str, Tensor], config: FittedConfig, threshold: Threshold | None
) -> None:
    """Writes tensors, configuration and threshold to `path`, whole or not at all."""
    values = {**config.to_json(), "format": FORMAT_VERSION}
    values["threshold"] = None if threshold is None else asdict(threshold)
    passport = json.dumps(values, sort_keys=True, allow_nan=False)
    content = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={METADATA_KEY: passport},
    )
    with whole_file(Path(path), "wb") as file:
        file.write(content)


def load_detector(path: Path) -> tuple[dict[str, Tensor], FittedConfig, Threshold | None]:
    """Reads what `save_detector` wrote. Raises ConfigError, one sentence, for anything else."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"There is no detector {path}; make it with predict.py --save-detector.")
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a whole safetensors file ({error}); save the detector again."
        ) from error
    if not isinstance(config, dict) or not set(NEEDED) <= set(config):
        raise ConfigError(f"{path} is not a saved detector (a checkpoint of train.py goes to --checkpoint).")
    if config.get("format") != FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {config.get('format')}, this code reads {FORMAT_VERSION}; use the version "
            "of the code that wrote it."
        )
    bad = sorted(name for name, value in tensors.items() if not bool(torch.isfinite(value).all()))
    if bad:
        raise ConfigError(
            f"{path} holds values that are not finite ({', '.join(bad[:3])}); save the detector again."
        )
    try:
        threshold = None if config["threshold"] is None else Threshold(**config["threshold"])
        return tensors, FittedConfig.from_json(config), threshold
    except (ConfigError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a whole detector ({error}); save it again.") from error
