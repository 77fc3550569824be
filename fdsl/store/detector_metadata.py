"""The metadata of a saved detector, read without its tensors and without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fdsl.config.decision import Threshold
from fdsl.config.describe_detector import detector_facts
from fdsl.config.run_config import FittedConfig
from utils.errors import ConfigError
from utils.files import parsed_json
from utils.options import without
from utils.text import one_line, printable

METADATA_KEY = "fdsl_detector"
REFERENCE_FILES = "reference_files"  # name, digest and day of each reference
FORMAT_VERSION = 1


def checked_metadata(path: Path, values: Any) -> tuple[FittedConfig, Threshold | None]:
    """Configuration and threshold in a saved detector's metadata; ConfigError, one sentence, for other
    values."""
    if not isinstance(values, dict) or not {"format", "threshold", REFERENCE_FILES} <= set(values):
        raise ConfigError(f"{path} is not a saved detector (a checkpoint of train.py goes to --checkpoint).")
    if values["format"] != FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {one_line(values['format'], 40)}, this code reads {FORMAT_VERSION}; "
            "use the version of the code that wrote it."
        )
    try:
        stored = values["threshold"]
        threshold = None if stored is None else Threshold.from_json(stored)
        return FittedConfig.from_json(without(values, ("format", "threshold", REFERENCE_FILES))), threshold
    except ConfigError as error:
        raise ConfigError(f"{path} is not a complete detector ({one_line(error)}); save it again.") from error


def refuse_no_detector(path: Path) -> None:
    """ConfigError where there is no file."""
    if not path.is_file():
        raise ConfigError(f"There is no detector {path}; make it with predict.py --save-detector.")


def detector_file_as_text(path: Path) -> str:
    """The facts of a saved detector, in lines; neither its backbone nor its weights are needed. ConfigError
    for any other file."""
    refuse_no_detector(path)
    try:
        with safe_open(path, framework="np") as file:
            values = parsed_json((file.metadata() or {}).get(METADATA_KEY, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a complete safetensors file ({one_line(error)}); save the detector again."
        ) from error
    config, threshold = checked_metadata(path, values)
    return detector_as_text(config, threshold, _references(path, values))


def detector_as_text(
    config: FittedConfig, threshold: Threshold | None, references: Sequence[tuple[str, str, str]]
) -> str:
    """A detector's settings, its threshold, and the references stored in it (name, digest, day), in lines."""
    facts = [
        *detector_facts(config),
        ("Threshold", "none" if threshold is None else f"{threshold.score:.4g}, {threshold.source}"),
    ]
    lines = [f"{name}: {value}" for name, value in facts]
    lines += [f"  {day}  {digest}  {printable(name)}" for name, digest, day in references]
    if not references and config.references:
        lines.append("  (its references are not stored in it: none can be added or removed)")
    return "\n".join(lines)


def _references(path: Path, values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, digest and day of the references in the metadata; ConfigError for anything else."""
    listed = values[REFERENCE_FILES]
    rows = [one for one in listed if isinstance(one, list)] if isinstance(listed, list) else []
    right = all(len(one) == 3 and all(isinstance(text, str) for text in one) for one in rows)
    if not right or rows != listed:
        raise ConfigError(f"{path} is not a complete detector (its list of references); save it again.")
    return [(name, digest, day) for name, digest, day in rows]
