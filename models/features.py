"""What a backbone gives of photographs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """tokens (L,B,N,C), L2-normalised patch tokens of the tapped blocks; embedding (B,D), L2-normalised, or
    None."""

    tokens: Tensor
    embedding: Tensor | None
