"""The journal of a prediction run, a line for each photograph once it is scored, and its totals.

A line holds a row of scores.jsonl, which ends with its own digest. Where maps are stored, a tab and the maps
in base64 follow, and the row has their digest. So what is cut off or changed is recognised.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import random
import re
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.region_of_interest import MaskFolders
from utils.errors import DataError
from utils.files import content_digest, flush_to_disk
from utils.score_rows import LISTED_SKIPPED, filled_columns, parsed_row

ROWS, SKIPPED = "rows.jsonl", "skipped.jsonl"
CHECK = b', "check": "'  # before the last value of a row, the digest of what stands before

# A row's files in the output folder; any other path could lie elsewhere.
RENDERED = {
    "picture": re.compile(r"pictures/[A-Za-z0-9._-]+\.jpg"),
    "mask": re.compile(r"masks/[A-Za-z0-9._-]+\.png"),
}
LONGEST = 2**48  # bytes of a journal
RANKED = 500  # highest rows, for the report,
SAMPLE = 100  # and where there are more, a sample of all of them


class Journal:
    """rows.jsonl, to which rows are appended, and a new skipped.jsonl in a folder, where the pictures of its
    rows lie too. `keep_maps`: each row has its maps."""

    def __init__(self, folder: Path, keep_maps: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.keep_maps = folder, keep_maps
        self._rows, self._skipped = open(folder / ROWS, "ab"), open(folder / SKIPPED, "wb")

    def add(self, row: dict[str, Any], base: np.ndarray, window: np.ndarray | None) -> None:
        """Appends one photograph's row (JSON values, `image` first), which gets its digests, and its maps
        (G,G)."""
        maps = in_base64(base, window) if self.keep_maps else b""
        if maps:
            row["maps"] = _digest(maps)
        text = json.dumps(row, allow_nan=False).encode()[:-1]
        row["check"] = _digest(text)
        self._rows.write(line_of(text + CHECK + row["check"].encode() + b'"}', maps))
        self._rows.flush()

    def skip(self, name: str, reason: str) -> None:
        """Appends a file that could not be scored."""
        self._skipped.write(json.dumps([name, reason]).encode() + b"\n")
        self._skipped.flush()

    def close(self) -> None:
        """Brings both files to the disk."""
        for file in (self._rows, self._skipped):
            flush_to_disk(file)
            file.close()


class RowIndex:
    """The complete rows of journals by the digests of their names: 17 bytes each.

    `folders`: of the journals; of rows of one name the first one counts. `keep_maps`: each row has its maps.
    A journal is cut before its first row that is incomplete.
    """

    def __init__(self, folders: Sequence[Path], keep_maps: bool) -> None:
        self._files = [folder / ROWS for folder in folders if (folder / ROWS).exists()]
        names, places = array("Q"), array("q")
        for number, file in enumerate(self._files):
            for start, row in _complete_rows(file, keep_maps):
                names.append(_name_digest(row["image"]))
                places.append(number * LONGEST + start)
        self._names, first = np.unique(np.array(names, np.uint64), return_index=True)
        self._places = np.array(places, np.int64)[first]
        self._is_done = np.zeros(len(first), bool)

    @property
    def done(self) -> int:
        """The number of rows of which `holds` was true."""
        return int(self._is_done.sum())

    def holds(self, name: str, path: Path, masks: MaskFolders | None = None) -> bool:
        """Whether there is a row of this photograph, with the same content, and the same mask of `masks`.
        Time and size are not enough: another photograph may have both."""
        line = self.line(name)
        if line is None:
            return False
        try:
            digest = content_digest(path)
            digest = digest if masks is None else masks.digest_with(path, digest)
        except (OSError, DataError):
            return False
        is_same = json.loads(row_in(line)).get("file", {}).get("digest") == digest
        self._is_done[self._entry(name)] |= is_same
        return is_same

    def line(self, name: str) -> bytes | None:
        """The journal's line of the row of this name; None where there is none."""
        entry = self._entry(name)
        return None if entry is None else self._line_at(self._places[entry])

    def others(self) -> list[dict[str, Any]]:
        """The rows of which `holds` was not true, in their order."""
        places = np.sort(self._places[~self._is_done])
        return [json.loads(row_in(self._line_at(place))) for place in places]

    def lines(self) -> Iterator[bytes]:
        """All lines, file by file."""
        return map(self._line_at, np.sort(self._places))

    def _entry(self, name: str) -> int | None:
        digest = np.uint64(_name_digest(name))
        entry = int(np.searchsorted(self._names, digest))
        return entry if entry < len(self._names) and self._names[entry] == digest else None

    def _line_at(self, place: int) -> bytes:
        number, start = divmod(int(place), LONGEST)
        with open(self._files[number], "rb") as lines:
            lines.seek(start)
            return lines.readline()


def _complete_rows(file: Path, keep_maps: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """The first byte of each complete row, and the row; cuts the file before the first other one."""
    start = 0
    with open(file, "rb+") as lines:
        for line in lines:
            row = parsed(line)
            if row is None or not _is_whole(row, _maps_part(line) if keep_maps else None):
                break
            yield start, row
            start += len(line)
        lines.truncate(start)


def _is_whole(row: Mapping[str, Any], maps: bytes | None) -> bool:
    """Whether a row has all that a photograph's has, names no file but its own, and where there are some has
    these `maps` in base64."""
    size = 4 * row["grid"] ** 2 * (1 if row["window_score"] is None else 2)
    fits = maps is None or (row.get("maps") == _digest(maps) and len(maps) == 4 * math.ceil(size / 3))
    files = ((row.get(name), places) for name, places in RENDERED.items())
    return fits and "regions" in row and all(file is None or places.fullmatch(file) for file, places in files)


def line_of(row: bytes, maps: bytes = b"") -> bytes:
    """A journal's line of a row of scores.jsonl, and of maps `in_base64`."""
    return row + (b"\t" + maps if maps else b"") + b"\n"


def row_in(line: bytes) -> bytes:
    """The row in a journal's line, as scores.jsonl has it, without an end of line."""
    return line.rstrip(b"\n").partition(b"\t")[0]


def parsed(line: bytes) -> dict[str, Any] | None:
    """The row in a journal's line; None for one that is cut off or was changed."""
    row = row_in(line)
    text, _, check = row.rpartition(CHECK)
    whole = line.endswith(b"\n") and check == _digest(text).encode() + b'"}'
    return parsed_row(row) if whole else None


def in_base64(base: np.ndarray, window: np.ndarray | None) -> bytes:
    """A photograph's maps (G,G), of the whole image and of its windows, as a journal holds them."""
    maps = np.stack([base] if window is None else [base, window])
    return b64encode(maps.astype(np.float32).tobytes())


def maps_in(line: bytes, grid: int) -> np.ndarray:
    """The maps in a journal's line: (1,G,G) float32, with windows (2,G,G); G = `grid`."""
    return np.frombuffer(b64decode(_maps_part(line)), np.float32).reshape(-1, grid, grid)


def _maps_part(line: bytes) -> bytes:
    return line.rstrip(b"\n").partition(b"\t")[2]


def _digest(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=8).hexdigest()


def _name_digest(name: str) -> int:
    return int(_digest(name.encode("utf-8", "surrogatepass")), 16)


@dataclass
class Totals:
    """The totals of a finished run: counts, every score (n,) float64, the rows with the highest scores, and a
    sample of all rows where there are more. `reasoned`: the scores of photographs that cannot be judged
    normal, whatever they score. `filled`: the columns of scores.csv. `keeps_earlier`: nothing was scored, and
    the results of the run before stay."""

    scored: int = 0
    anomalous: int = 0
    skipped: int = 0
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    top: list[dict] = field(default_factory=list)
    first_skipped: list[tuple[str, str]] = field(default_factory=list)
    sample: list[dict] = field(default_factory=list)
    reasoned: list[float] = field(default_factory=list)
    filled: set[str] = field(default_factory=set)
    keeps_earlier: bool = False


def totals_of(rows: Iterable[dict], count: int, skipped: Sequence[tuple[str, str]]) -> Totals:
    """The totals of `count` rows, which are gone through once, and of the skipped files' names and
    reasons."""
    totals = Totals(count, skipped=len(skipped), first_skipped=list(skipped[:LISTED_SKIPPED]))
    scores = array("d")
    sampled = set(random.Random(0).sample(range(count), SAMPLE)) if count > RANKED else set()

    def counted() -> Iterator[tuple[float, int, dict]]:
        for number, row in enumerate(rows):
            scores.append(row["score"])
            totals.anomalous += bool(row["anomalous"])
            totals.filled |= filled_columns(row)
            if row["reason"]:
                totals.reasoned.append(row["score"])
            if number in sampled:
                totals.sample.append(row)
            yield row["score"], -number, row

    totals.top = [row for *_, row in heapq.nlargest(RANKED, counted(), key=lambda item: item[:2])]
    totals.scores = np.array(scores, np.float64)
    return totals
