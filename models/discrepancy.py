"""Feature discrepancy (FD): what is left of tokens when their nearest normal tokens are taken away."""

from __future__ import annotations

from torch import Tensor


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
