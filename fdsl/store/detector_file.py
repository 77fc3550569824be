"""One file with everything a detector needs: memory bank, heads, threshold and configuration
(safetensors)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from fdsl.config.run_config import FittedConfig
from fdsl.store.tensor_file import read_tensor_file
from fdsl.thresholds.threshold import Threshold
from utils.errors import ConfigError
from utils.files import whole_file
from utils.options import without
from utils.text import one_line

METADATA_KEY = "fdsl_detector"
REFERENCE_FILES = "reference_files"
FORMAT_VERSION = 1


def save_detector(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: FittedConfig,
    threshold: Threshold | None,
    references: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Writes tensors, configuration and threshold to `path`, whole or not at all; `references`: name, digest
    and day of each, for whoever reads the file's metadata."""
    values = {
        "format": FORMAT_VERSION,
        **config.to_json(),
        "threshold": None if threshold is None else asdict(threshold),
        REFERENCE_FILES: list(references),
    }
    passport = json.dumps(values, sort_keys=True, allow_nan=False)
    content = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={METADATA_KEY: passport},  # of several names safetensors would change the order
    )
    with whole_file(Path(path), "wb") as file:
        file.write(content)


def load_detector(path: Path) -> tuple[dict[str, Tensor], FittedConfig, Threshold | None]:
    """Reads what `save_detector` wrote. Raises ConfigError, one sentence, for anything else."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"There is no detector {path}; make it with predict.py --save-detector.")
    try:
        config, tensors = read_tensor_file(path, METADATA_KEY)
    except ValueError as error:
        raise ConfigError(f"{path} {error}; save the detector again.") from error
    if not isinstance(config, dict) or not {"format", "threshold", REFERENCE_FILES} <= set(config):
        raise ConfigError(f"{path} is not a saved detector (a checkpoint of train.py goes to --checkpoint).")
    if config["format"] != FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {one_line(config['format'], 40)}, this code reads {FORMAT_VERSION}; "
            "use the version of the code that wrote it."
        )
    try:
        stored = config["threshold"]
        threshold = None if stored is None else Threshold.from_json(stored)
        made = FittedConfig.from_json(without(config, ("format", "threshold", REFERENCE_FILES)))
        return tensors, made, threshold
    except ConfigError as error:
        raise ConfigError(f"{path} is not a whole detector ({one_line(error)}); save it again.") from error
