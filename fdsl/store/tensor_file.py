"""Safetensors files with JSON metadata. A checksum over both is stored with them: a file is read as it was
written, or refused."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.backbones.weights_io.read_weights import is_plain
from utils.files import CHECKSUM, parsed_json, write_bytes
from utils.options import without
from utils.text import one_line

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
NUMBERS = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)
LONGEST = 60  # characters of a tensor's name in messages


def write_tensor_file(
    path: Path, tensors: Mapping[str, Tensor], key: str, metadata: Mapping[str, Any]
) -> None:
    """Writes tensors, and `metadata` as JSON under a single key (safetensors would shuffle several), whole or
    not at all."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    values = {**metadata, CHECKSUM: _checksum(plain, metadata)}
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    write_bytes(path, save(plain, metadata={key: text}))


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> int:
    """CRC-32 of the metadata and of each tensor's name, type, shape and bytes."""
    checksum = zlib.crc32(json.dumps(without(metadata, [CHECKSUM]), sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), checksum)
        checksum = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def read_tensor_file(path: Path, key: str) -> tuple[Any, dict[str, Tensor]]:
    """The metadata under `key` (None: there are none) and the tensors.

    ValueError, the rest of a sentence that begins with the file, for an incomplete or changed file and for
    tensors that are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = parsed_json((file.metadata() or {}).get(key, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise ValueError(f"is not a complete safetensors file ({one_line(error)})") from error
    refuse_strange(tensors)
    if isinstance(metadata, dict) and metadata.get(CHECKSUM) != _checksum(tensors, metadata):
        raise ValueError("is damaged: its content is not what was written")
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
