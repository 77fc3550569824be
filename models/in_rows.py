"""Tensors cut into a few rows at a time, so that a processor's cache holds what is done with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

AT_ONCE = 64  # rows of about a thousand numbers


def in_rows(values: Tensor) -> Sequence[Tensor]:
    """Values (n,...) in parts, on a CPU; whole on other devices, and in a graph, which has no loop over
    data."""
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return [values]
    return values.split(AT_ONCE)
