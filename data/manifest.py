"""The photographs of a run, in their order, in a file: the inputs are walked once, the list is read often."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.inputs import Listed


def write_list(file: Path, items: Iterable[Listed]) -> int:
    """Writes a line for each item; returns the number of those that are not done."""
    count = 0
    with open(file, "wb") as lines:
        for item in items:
            count += not item.done
            path = None if item.path is None else str(item.path)
            lines.write(json.dumps([item.name, path, item.reason, item.done]).encode() + b"\n")
    return count


def read_list(file: Path) -> Iterator[Listed]:
    """The items that `write_list` wrote."""
    with open(file, "rb") as lines:
        for line in lines:
            name, path, *more = json.loads(line)
            yield Listed(name, None if path is None else Path(path), *more)


def share_of(items: Iterable[Listed], batch_size: int, rank: int, size: int) -> Iterator[Listed]:
    """What process `rank` of `size` scores: of the batches that one process would score, every `size`-th."""
    waiting = (item for item in items if not item.done)
    return (item for number, item in enumerate(waiting) if number // batch_size % size == rank)
