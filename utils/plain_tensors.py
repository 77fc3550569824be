"""Checks of tensors from untrusted files: their kind, shape and memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def taken(state: Mapping[str, Tensor], name: str, *shape: int | None) -> Tensor:
    """The float tensor `name` of that shape, None for any size above zero. KeyError where it is missing,
    ValueError, a few words, for another shape or kind."""
    tensor = state[name]
    if not tensor.is_floating_point():
        raise ValueError(f"{name} holds no floats")
    sizes = tuple(tensor.shape)
    fits = len(sizes) == len(shape) and all(
        size > 0 if wanted is None else size == wanted for size, wanted in zip(sizes, shape)
    )
    if not fits:
        words = " x ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is {' x '.join(map(str, sizes)) or 'one number'}, where {words} is wanted")
    return tensor


def is_plain(value: object) -> bool:
    """Whether a value is a dense tensor whose memory holds all its values: a file of a few bytes may claim a
    billion."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout != torch.strided:
        return False
    if value.is_meta or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
