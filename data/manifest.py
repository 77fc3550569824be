"""The photographs of a run, in their order, in a file: written once, read block by block."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from data.inputs import find_images
from utils.errors import ConfigError
from utils.files import read_json, whole_file, write_json

BLOCK = 1000  # photographs of a block at most, about,
BLOCKS = 64  # and so many blocks where there are enough photographs


class Listed(NamedTuple):
    """A photograph's name and path; without a path, the reason why it cannot be read."""

    name: str
    path: Path | None
    reason: str = ""


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


def batches_of_a_block(batches: int, batch_size: int) -> int:
    """The number of batches of a block, out of `batches` in all. Blocks hold whole batches, so that several
    processes compute the batches of one."""
    return max(1, min(-(-batches // BLOCKS), BLOCK // batch_size))


def _write(file: IO[bytes], items: Iterable[Listed], length: int) -> tuple[int, list[int]]:
    """Writes a line for each item; returns the number of photographs, and the offsets where each block of
    `length` of them begins and the last one ends."""
    count, place, offsets = 0, 0, [0]
    for item in items:
        if item.path is not None:
            if count and count % length == 0:
                offsets.append(place)
            count += 1
        path = None if item.path is None else str(item.path)
        place += file.write(json.dumps([item.name, path, item.reason]).encode() + b"\n")
    return count, [*offsets, place]


def _read(file: IO[bytes], start: int, end: int) -> Iterator[Listed]:
    """The items whose lines lie between two offsets."""
    file.seek(start)
    while start < end:
        line = file.readline()
        start += len(line)
        name, path, reason = json.loads(line)
        yield Listed(name, None if path is None else Path(path), reason)


class Spool:
    """Items in a temporary file, which is gone when this process ends: written once, iterated often."""

    def __init__(self, items: Iterable[Listed]) -> None:
        self._file = tempfile.TemporaryFile()
        self.count, (_, self._end) = _write(self._file, items, 2**62)

    def __iter__(self) -> Iterator[Listed]:
        return _read(self._file, 0, self._end)


@dataclass(frozen=True)
class Manifest:
    """The items of a run in FOLDER/inputs.jsonl, cut into blocks of `length` photographs: `offsets` are
    where each begins and the last one ends. inputs.json, which is written last, marks it as complete."""

    folder: Path
    inputs: list[str]
    count: int
    length: int
    offsets: list[int]

    @staticmethod
    def is_in(folder: Path) -> bool:
        return (folder / "inputs.json").is_file()

    @classmethod
    def write(cls, folder: Path, items: Iterable[Listed], inputs: Sequence[str], batch_size: int) -> Manifest:
        with whole_file(folder / "inputs.jsonl", "wb") as file:
            count, (*begin, end) = _write(file, items, batch_size)
        step = batches_of_a_block(len(begin), batch_size)
        manifest = cls(folder, list(map(str, inputs)), count, step * batch_size, [*begin[::step], end])
        values = {name: value for name, value in vars(manifest).items() if name != "folder"}
        write_json(folder / "inputs.json", values)
        return manifest

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder; ConfigError for a missing or incomplete one."""
        values: Any = read_json(folder / "inputs.json")
        try:
            manifest = cls(folder, **values)
            size = (folder / "inputs.jsonl").stat().st_size
            if manifest.offsets[0] != 0 or manifest.offsets[-1] != size or manifest.length < 1:
                raise ValueError("inputs.json and inputs.jsonl do not belong together")
        except (TypeError, ValueError, LookupError, OSError) as error:
            raise ConfigError(
                f"{folder} holds no complete list of photographs; leave --resume out to start anew."
            ) from error
        return manifest

    def __len__(self) -> int:
        """The number of blocks."""
        return len(self.offsets) - 1

    def block(self, number: int) -> Iterator[Listed]:
        with open(self.folder / "inputs.jsonl", "rb") as file:
            yield from _read(file, self.offsets[number], self.offsets[number + 1])
