"""How photographs are read, by every command that scores some."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """How many photographs are scored at once, and by how many threads or processes they are read (None: by
    the cores there are)."""

    batch_size: int = 4
    workers: int | None = None
