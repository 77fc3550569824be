"""How photographs are read, by every command that scores some."""

from __future__ import annotations

from dataclasses import dataclass

from utils.limits import MAX_PIXELS


@dataclass(frozen=True)
class Reading:
    """How many photographs are scored at once, by how many threads or processes they are read (None: by the
    cores there are), and the pixels from which on one is refused."""

    batch_size: int = 4
    workers: int | None = None
    max_pixels: int = MAX_PIXELS
