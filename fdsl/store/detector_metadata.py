"""The metadata of a saved detector, read without its tensors and without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fdsl.config.describe import detector_facts
from fdsl.config.run_config import FittedConfig, Threshold
from utils.errors import ConfigError
from utils.files import CHECKSUM, parsed_json
from utils.options import INLINE, from_stored, without
from utils.text import one_line, printable

METADATA_KEY = "fdsl_detector"
FORMAT_VERSION = 3


@dataclass(frozen=True)
class DetectorMetadata:
    """All of a saved detector but its tensors. `reference_files`: name, digest and day of each
    reference that it carries."""

    format: int
    fitted: FittedConfig = field(metadata=INLINE)
    threshold: Threshold | None
    reference_files: tuple[tuple[str, str, str], ...]


def checked_metadata(path: Path, values: Any) -> DetectorMetadata:
    """The metadata of a saved detector; ConfigError, one sentence, for other values."""
    if not isinstance(values, dict) or "format" not in values:
        raise ConfigError(f"{path} is not a saved detector (a checkpoint of train.py goes to --checkpoint).")
    if values["format"] != FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {one_line(values['format'], 40)}, this code reads {FORMAT_VERSION}; "
            "use the version of the code that wrote it."
        )
    try:
        return from_stored(DetectorMetadata, without(values, [CHECKSUM]))
    except ConfigError as error:
        raise ConfigError(f"{path} is not a complete detector ({one_line(error)}); save it again.") from error


def refuse_no_detector(path: Path) -> None:
    """ConfigError where there is no file."""
    if not path.is_file():
        raise ConfigError(f"There is no detector {path}; make it with predict.py --save-detector.")


def detector_file_as_text(path: Path) -> str:
    """A saved detector's settings, its threshold, and the references stored in it, in lines; neither its
    backbone nor its weights are needed. ConfigError for any other file."""
    refuse_no_detector(path)
    try:
        with safe_open(path, framework="np") as file:
            values = parsed_json((file.metadata() or {}).get(METADATA_KEY, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a complete safetensors file ({one_line(error)}); save the detector again."
        ) from error
    made = checked_metadata(path, values)
    limit = made.threshold
    facts = [
        *detector_facts(made.fitted),
        ("Threshold", "none" if limit is None else f"{limit.score:.4g}, {limit.source}"),
    ]
    lines = [f"{name}: {value}" for name, value in facts]
    lines += [f"  {day}  {digest}  {printable(name)}" for name, digest, day in made.reference_files]
    if not made.reference_files and made.fitted.references:
        lines.append("  (its references are not stored in it: none can be added or removed)")
    return "\n".join(lines)
