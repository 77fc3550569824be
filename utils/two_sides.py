"""Photographs for two backbones at once: both sizes in one array."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TwoSides:
    """A photograph is squashed twice, to `first` and to `second` pixels a side; the smaller one lies in the
    upper left corner of a square as large as the larger one."""

    first: int
    second: int

    @property
    def side(self) -> int:
        """Pixels along a side of both squares."""
        return max(self.first, self.second)
