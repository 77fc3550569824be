"""One file with everything a detector needs: memory bank, heads, threshold and configuration
(safetensors)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from fdsl.config.decision import Threshold
from fdsl.config.run_config import FittedConfig
from fdsl.store.detector_metadata import (
    FORMAT_VERSION,
    METADATA_KEY,
    REFERENCE_FILES,
    checked_metadata,
    refuse_no_detector,
)
from fdsl.store.tensor_file import read_tensor_file, write_tensor_file
from utils.errors import ConfigError


def save_detector(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: FittedConfig,
    threshold: Threshold | None,
    references: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Writes tensors, configuration and threshold to `path`, whole or not at all; `references`: name, digest
    and day of each, for readers of the metadata."""
    values = {
        "format": FORMAT_VERSION,
        **config.to_json(),
        "threshold": None if threshold is None else asdict(threshold),
        REFERENCE_FILES: list(references),
    }
    write_tensor_file(Path(path), tensors, METADATA_KEY, values)


def load_detector(path: Path) -> tuple[dict[str, Tensor], FittedConfig, Threshold | None]:
    """The tensors, configuration and threshold of a saved detector; ConfigError, one sentence, for any other
    file."""
    path = Path(path)
    refuse_no_detector(path)
    try:
        values, tensors = read_tensor_file(path, METADATA_KEY)
    except ValueError as error:
        raise ConfigError(f"{path} {error}; save the detector again.") from error
    return tensors, *checked_metadata(path, values)
