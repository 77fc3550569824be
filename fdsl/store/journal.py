"""The journal of a prediction run: a line for each photograph once it is scored, and its maps.

A row is followed by its digest and has that of its maps, so that what is cut off or changed is recognised.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.region_of_interest import MaskFolders
from utils.archives import facts_of
from utils.errors import DataError
from utils.files import content_digest, flush_to_disk

ROWS, SKIPPED = "rows.jsonl", "skipped.jsonl"
CHECK = b', "check": "'  # before the last value of a row, the digest of what stands before
KINDS = {"name": "<u8", "journal": "<i4", "row": "<i8", "start": "<i8", "size": "<i8", "digest": "<u8"}
ENTRY = np.dtype(list(KINDS.items()))


class Journal:
    """rows.jsonl, skipped.jsonl and, with `keep_maps`, the maps as raw float32, in a folder. Rows and maps
    are appended to existing ones."""

    def __init__(self, folder: Path, keep_maps: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.keep_maps = folder, keep_maps
        self._rows = open(folder / ROWS, "ab")
        self._skipped = open(folder / SKIPPED, "wb")
        self._maps = [open(file, "ab") for file in map_files(folder)] if keep_maps else []

    def give_way(self) -> None:
        """Does nothing: a journal has no results of an earlier run."""

    def add(self, row: dict[str, Any], base: np.ndarray, window: np.ndarray | None) -> None:
        """Appends one photograph's row (JSON values, `image` first) and its maps (G,G)."""
        maps = []
        if self.keep_maps:
            maps = [
                np.ascontiguousarray(one, np.float32).tobytes() for one in (base, window) if one is not None
            ]
            row["maps"] = _digest(*maps)
        text = json.dumps(row, allow_nan=False).encode()[:-1]
        row["check"] = _digest(text)
        self.append(text + CHECK + row["check"].encode() + b'"}\n', maps)

    def append(self, line: bytes, maps: Sequence[bytes]) -> None:
        """Appends a row as its line, after its maps."""
        for file, values in zip(self._maps, maps):
            file.write(values)
            file.flush()
        self._rows.write(line)
        self._rows.flush()

    def skip(self, name: str, reason: str) -> None:
        """Appends a file that could not be scored."""
        self._skipped.write(json.dumps([name, reason]).encode() + b"\n")
        self._skipped.flush()

    def close(self) -> None:
        """Brings all files to the disk."""
        files: list[IO[Any]] = [self._rows, self._skipped, *self._maps]
        for file in files:
            flush_to_disk(file)
            file.close()


class RowIndex:
    """The complete rows of journals, indexed by the digests of their names: 44 bytes each.

    `folders`: of the journals; of rows of one name the first one counts. `keep_maps`: each row has its maps
    in base.f32 and window.f32. The files of a journal are cut before the first row that is incomplete in one
    of them. A row is taken once `holds` has confirmed it; `confirmed`: all are.
    """

    def __init__(self, folders: Sequence[Path], keep_maps: bool, confirmed: bool = False) -> None:
        self.folders, self.keep_maps = folders, keep_maps
        self._map_bytes = self._maps = 0  # of each map, and the maps of each row
        index = np.concatenate([self._cut_incomplete(number) for number in range(len(folders))])
        self._index = index[np.unique(index["name"], return_index=True)[1]]
        self._names = self._index["name"].copy()  # a search in a column would copy it each time
        self._confirmed = np.full(len(self._index), confirmed)

    def __len__(self) -> int:
        """The number of confirmed rows."""
        return int(self._confirmed.sum())

    def holds(self, name: str, path: Path, masks: MaskFolders | None = None) -> bool:
        """Whether there is a row of this photograph, with the same content, and the same mask of `masks`.
        Time and size are not enough: another photograph may have both."""
        place = self._place(name)
        if place is None:
            return False
        try:
            digest = content_digest(path)
            digest = digest if masks is None else masks.digest_with(path, digest)
            same = facts_of(path).size, _short(digest)
        except (OSError, DataError):
            return False
        self._confirmed[place] = same == (self._index["size"][place], self._index["digest"][place])
        return bool(self._confirmed[place])

    def copy(self, names: Iterable[str], journal: Journal) -> Iterator[str]:
        """Appends the confirmed rows of these names, and their maps, to another journal; yields the names
        that have none."""
        with contextlib.ExitStack() as stack:
            files = [
                [
                    stack.enter_context(open(file, "rb"))
                    for file in (folder / ROWS, *map_files(folder)[: self._maps])
                    if file.exists()
                ]
                for folder in self.folders
            ]
            for name in names:
                place = self._place(name)
                if place is None or not self._confirmed[place]:
                    yield name
                    continue
                _, number, row, start, *_ = self._index[place]
                rows, *maps = files[number]
                rows.seek(start)
                for file in maps:
                    file.seek(row * self._map_bytes)
                journal.append(rows.readline(), [file.read(self._map_bytes) for file in maps])

    def others(self) -> list[str]:
        """The names of the rows that are not confirmed, in their order."""
        others = np.sort(self._index[~self._confirmed], order=("journal", "start"))
        names = []
        for number in np.unique(others["journal"]):
            with open(self.folders[number] / ROWS, "rb") as rows:
                for start in others["start"][others["journal"] == number].tolist():
                    rows.seek(start)
                    names.append(json.loads(rows.readline())["image"])
        return names

    def _place(self, name: str) -> int | None:
        digest = _name_digest(name)
        place = int(np.searchsorted(self._names, digest))
        return place if place < len(self._names) and self._names[place] == digest else None

    def _cut_incomplete(self, number: int) -> np.ndarray:
        """The entries of a journal's complete rows; cuts the journal and its maps to them."""
        folder = self.folders[number]
        entries: list[tuple] = []
        start = 0  # bytes of complete rows
        with contextlib.ExitStack() as stack:
            files = [file for file in map_files(folder) if self.keep_maps and file.exists()]
            maps = [stack.enter_context(open(file, "rb")) for file in files]
            for line in _lines(folder / ROWS):
                row = parsed(line)
                if row is None or "file" not in row or (self.keep_maps and not self._has_maps(row, maps)):
                    break
                size, digest = row["file"]["bytes"], _short(row["file"]["digest"])
                entries.append((_name_digest(row["image"]), number, len(entries), start, size, digest))
                start += len(line)
        if (folder / ROWS).exists():
            os.truncate(folder / ROWS, start)
        for file in files:
            os.truncate(file, min(file.stat().st_size, self._map_bytes * len(entries)))
        return np.array(entries, ENTRY)

    def _has_maps(self, row: Mapping[str, Any], maps: Sequence[IO[bytes]]) -> bool:
        """Whether the next map in each file is complete and is the row's."""
        self._maps = 1 if row["window_score"] is None else 2
        self._map_bytes = 4 * row["grid"] ** 2
        values = [file.read(self._map_bytes) for file in maps[: self._maps]]
        return row.get("maps") == _digest(*values)


def parsed(line: bytes) -> dict[str, Any] | None:
    """The row of a journal's line; None for one that is cut off or was changed."""
    text, _, check = line.rpartition(CHECK)
    return json.loads(line) if check == _digest(text).encode() + b'"}\n' else None


def _digest(*values: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(value)
    return digest.hexdigest()


def map_files(folder: Path) -> tuple[Path, Path]:
    """The files of a journal's maps: of whole images and of their windows."""
    return folder / "base.f32", folder / "window.f32"


def _lines(file: Path) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError), open(file, "rb") as lines:
        yield from lines


def _name_digest(name: str) -> np.uint64:
    return _short(_digest(name.encode("utf-8", "surrogatepass")))


def _short(digest: str) -> np.uint64:
    return np.uint64(int(digest[:16], 16))
