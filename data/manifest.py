"""The photographs of a run, in their order, in a file: the inputs are walked once, the list is read often."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from data.inputs import find_images


class Listed(NamedTuple):
    """A photograph's name and path; without a path, the reason why it cannot be read. `done`: an earlier run
    has scored it."""

    name: str
    path: Path | None
    reason: str = ""
    done: bool = False


def listed(inputs: Sequence[str | Path], left_out: Sequence[Path] = ()) -> Iterator[Listed]:
    """The photographs and the problems of `find_images` in one stream; the inputs are walked once."""
    problems: list[tuple[str, str]] = []

    def read() -> Iterator[Listed]:
        yield from (Listed(name, None, reason) for name, reason in problems)
        problems.clear()

    for name, path in find_images(inputs, left_out, lambda *problem: problems.append(problem)):
        yield from read()
        yield Listed(name, path)
    yield from read()


def write_list(file: IO[bytes], items: Iterable[Listed]) -> int:
    """Writes a line for each item; returns the number of photographs that are to be scored."""
    count = 0
    for item in items:
        count += item.path is not None and not item.done
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
    before = 0  # photographs
    for item in items:
        if item.done:
            continue
        if before // batch_size % size == rank:
            yield item
        before += item.path is not None
