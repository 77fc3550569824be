"""The photographs of a run, in their order, in a file: the inputs are walked once, the list is read often."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from data.inputs import Listed


def write_list(file: IO[bytes], items: Iterable[Listed]) -> int:
    """Writes a line for each item; returns the number of those that are not done."""
    count = 0
    for item in items:
        count += not item.done
        path = None if item.path is None else str(item.path)
        file.write(json.dumps([item.name, path, item.reason, item.done]).encode() + b"\n")
    file.flush()
    return count


def read_list(file: IO[bytes]) -> Iterator[Listed]:
    """The items that `write_list` wrote."""
    file.seek(0)
    for line in file:
        name, path, *more = json.loads(line)
        yield Listed(name, None if path is None else Path(path), *more)


def share_of(items: Iterable[Listed], batch_size: int, rank: int, size: int) -> Iterator[Listed]:
    """What process `rank` of `size` scores: of the batches that one process would score, every `size`-th."""
    waiting = (item for item in items if not item.done)
    return (item for number, item in enumerate(waiting) if number // batch_size % size == rank)
