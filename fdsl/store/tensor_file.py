"""Safetensors files with JSON metadata. They are read as untrusted files: only plain finite tensors pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from utils.files import parsed_json, write_bytes
from utils.plain_tensors import is_plain
from utils.text import one_line

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
NUMBERS = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)
LONGEST = 60  # characters of a tensor's name in messages


def write_tensor_file(
    path: Path, tensors: Mapping[str, Tensor], key: str, metadata: Mapping[str, Any]
) -> None:
    """Writes tensors, and `metadata` as JSON under a single key (safetensors would shuffle several), whole or
    not at all."""
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_bytes(path, save(plain, metadata={key: text}))


def read_tensor_file(path: Path, key: str) -> tuple[Any, dict[str, Tensor]]:
    """The metadata under `key` (None: there are none) and the tensors.

    ValueError, the rest of a sentence that begins with the file, for an incomplete file and for tensors that
    are not plain or not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = parsed_json((file.metadata() or {}).get(key, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise ValueError(f"is not a complete safetensors file ({one_line(error)})") from error
    refuse_strange(tensors)
    return metadata, tensors


def refuse_strange(tensors: Mapping[Any, Any]) -> None:
    """ValueError, as above, unless all are dense finite tensors of NUMBERS, under names of text."""
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise ValueError(f"holds a name that is no text ({one_line(repr(name), LONGEST)})")
        label = one_line(name, LONGEST)
        if not isinstance(value, Tensor) or not is_plain(value):
            raise ValueError(f"holds {label}, which is no tensor of plain values")
        if value.dtype not in NUMBERS:
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"holds {label} in an unsupported kind of number ({kind})")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"holds values that are not finite ({label})")
