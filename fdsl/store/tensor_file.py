"""Safetensors files with a JSON passport, read as those of strangers: plain finite tensors, or a few
words."""

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
SHOWN = 60  # characters of a tensor's name


def write_tensor_file(
    path: Path, tensors: Mapping[str, Tensor], key: str, passport: Mapping[str, Any]
) -> None:
    """Writes tensors, and `passport` as the only metadata (of several names safetensors would change the
    order), whole or not at all."""
    text = json.dumps(passport, sort_keys=True, allow_nan=False)
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_bytes(path, save(plain, metadata={key: text}))


def read_tensor_file(path: Path, key: str) -> tuple[Any, dict[str, Tensor]]:
    """The value of the passport `key` (None: there is none) and the tensors.

    ValueError, the rest of a sentence that begins with the file, for one that is not whole or holds tensors
    that are not plain or not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            passport = parsed_json((file.metadata() or {}).get(key, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise ValueError(f"is not a whole safetensors file ({one_line(error)})") from error
    refuse_strange(tensors)
    return passport, tensors


def refuse_strange(tensors: Mapping[Any, Any]) -> None:
    """ValueError, as above, unless all are dense tensors with values, of kinds that are computed with,
    finite, under names of text."""
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise ValueError(f"holds a name that is no text ({one_line(repr(name), SHOWN)})")
        shown = one_line(name, SHOWN)
        if not isinstance(value, Tensor) or not is_plain(value):
            raise ValueError(f"holds {shown}, which is no tensor of plain values")
        if value.dtype not in NUMBERS:
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"holds {shown} in a kind of number that nothing is computed with ({kind})")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"holds values that are not finite ({shown})")
