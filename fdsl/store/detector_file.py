"""One file with everything a detector needs: memory bank, heads, threshold and configuration
(safetensors)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fdsl.store.detector_metadata import METADATA_KEY, DetectorMetadata, checked_metadata, refuse_no_detector
from fdsl.store.tensor_file import read_tensor_file, write_tensor_file
from utils.errors import ConfigError
from utils.options import as_stored


def save_detector(path: Path, tensors: Mapping[str, Tensor], metadata: DetectorMetadata) -> None:
    """Writes tensors, configuration and threshold to `path`, whole or not at all."""
    write_tensor_file(Path(path), tensors, METADATA_KEY, as_stored(metadata))


def load_detector(path: Path) -> tuple[dict[str, Tensor], DetectorMetadata]:
    """The tensors and metadata of a saved detector; ConfigError, one sentence, for any other file."""
    refuse_no_detector(path)
    try:
        values, tensors = read_tensor_file(path, METADATA_KEY)
    except ValueError as error:
        raise ConfigError(f"{path} {error}; save the detector again.") from error
    return tensors, checked_metadata(path, values)
