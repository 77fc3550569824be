"""Feature discrepancy (FD): what is left of tokens when their nearest normal tokens are taken away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

AT_ONCE = 64  # rows at a time, of about a thousand numbers


def feature_discrepancy(tokens: Tensor, nearest: Tensor | None, mode: str = "abs") -> Tensor:
    """What is left of `tokens` (...,C) when the nearest normal tokens (...,C) are taken away, in float32.

    abs: |T - M|; signed: T - M; context: T + |T - M|; none: T itself (ablation). docs/design.md, section 2.4.
    """
    if mode == "none":
        return tokens.float()
    if nearest is None:
        raise ValueError(f"The discrepancy {mode} needs the nearest normal tokens.")
    return of_difference(tokens, tokens.float() - nearest.float(), mode)


def of_difference(tokens: Tensor, difference: Tensor, mode: str) -> Tensor:
    """The same of tokens whose `difference` (...,C) float32 from their nearest normal ones is known."""
    if mode == "context":
        return tokens.float() + difference.abs()
    return difference.abs() if mode == "abs" else difference


def in_rows(values: Tensor) -> Sequence[Tensor]:
    """Values (n,...), a few rows at a time on a CPU, so that its cache holds what is done with them; whole on
    other devices, and in a graph, which has no loop over data."""
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return [values]
    return values.split(AT_ONCE)
