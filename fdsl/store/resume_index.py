"""The photographs that an earlier prediction run has scored, and whether their rows are still valid."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.region_of_interest import MaskFolders
from utils.archives import facts_of, is_file
from utils.errors import DataError
from utils.files import Stamp, content_digest, flush_to_disk, parsed_json

PARTS = ("base", "window")
BOX = {"x", "y", "width", "height", "area", "peak"}
LENGTHS = {"major_axis", "minor_axis", "orientation", "mean"}  # numbers of a region in addition
MOST, LARGEST_GRID = 1e9, 8192
DIGEST = re.compile(r"[0-9a-f]{16}")
COLUMNS = np.dtype([("name", "<u8"), ("row", "<i8"), ("size", "<i8"), ("digest", "<u8")])
PICTURE = re.compile(r"pictures/[A-Za-z0-9._-]+\.jpg")
MASK = re.compile(r"masks/[A-Za-z0-9._-]+\.png")
RENDERED = {"picture": PICTURE, "mask": MASK}  # files of a row in the output folder


class ResumeIndex:
    """The complete rows of a journal, indexed by the digests of their names: 32 bytes each.

    `folder`: the journal's; `keep_maps`: each row has its maps in base.f32 and window.f32. All files are cut
    before the first row that is incomplete in one of them.
    """

    def __init__(self, folder: Path, keep_maps: bool) -> None:
        self.folder, self.keep_maps = folder, keep_maps
        self.rows = folder / "rows.jsonl"
        self._side: int | None = None
        self._index = self._cut_incomplete()
        self._confirmed = np.zeros(len(self._index), bool)

    def __len__(self) -> int:
        return len(self._index)

    def holds(self, name: str, path: Path, masks: MaskFolders | None = None) -> bool:
        """Whether there is a row of this photograph, with the same content, and the same mask of `masks`; it
        is then confirmed."""
        place = self._place(name)
        if place is None or not _is_same(self._index[place], path, masks):
            return False
        self._confirmed[place] = True
        return True

    def has(self, name: str) -> bool:
        """Whether `holds` has confirmed a row of this name."""
        place = self._place(name)
        return place is not None and bool(self._confirmed[place])

    def _place(self, name: str) -> int | None:
        digest = name_digest(name)
        place = int(np.searchsorted(self._index["name"], digest))
        return place if place < len(self._index) and self._index["name"][place] == digest else None

    def drop_others(self) -> list[str]:
        """Removes the rows that `holds` has not confirmed, with their maps; returns their names.

        An interruption meanwhile loses only rows: a map belongs to its row by its digest.
        """
        stays = np.zeros(len(self._index), bool)
        stays[self._index["row"]] = self._confirmed
        if stays.all():
            return []
        dropped = []
        with contextlib.ExitStack() as stack:
            maps = {part: self._parts(stack, part) for part in PARTS if self._file(part).exists()}
            rows = stack.enter_context(open(self.rows.with_suffix(".new"), "wb"))
            for number, line in enumerate(stack.enter_context(open(self.rows, "rb"))):
                values = {part: old.read(self._map_bytes) for part, (old, _) in maps.items()}
                if not stays[number]:
                    dropped.append(json.loads(line)["image"])
                    continue
                rows.write(line)
                for part, (_, new) in maps.items():
                    new.write(values[part])
            for file in (rows, *(new for _, new in maps.values())):
                flush_to_disk(file)
        for part in maps:
            os.replace(self._file(part).with_suffix(".new"), self._file(part))
        os.replace(self.rows.with_suffix(".new"), self.rows)
        remaining = self._index[self._confirmed]
        remaining["row"] = np.argsort(np.argsort(remaining["row"]))
        self._index, self._confirmed = remaining, np.ones(len(remaining), bool)
        return dropped

    def _parts(self, stack: contextlib.ExitStack, part: str) -> tuple[Any, Any]:
        old, new = self._file(part), self._file(part).with_suffix(".new")
        return stack.enter_context(open(old, "rb")), stack.enter_context(open(new, "wb"))

    def _file(self, part: str) -> Path:
        return self.folder / f"{part}.f32"

    @property
    def _map_bytes(self) -> int:
        return 4 * (self._side or 0) ** 2

    def _cut_incomplete(self) -> np.ndarray:
        """The index of the complete rows, sorted by name; cuts the journal and its maps to them."""
        entries: list[tuple] = []
        complete = 0  # bytes
        with contextlib.ExitStack() as stack:
            maps = {
                part: stack.enter_context(open(self._file(part), "rb"))
                for part in PARTS
                if self.keep_maps and self._file(part).exists()
            }
            for line in self._lines(stack):
                row = parsed(line)
                if row is None or (self.keep_maps and not self._has_maps(row, maps)):
                    break
                complete += len(line)
                self._side = row["grid"]
                size, digest = row["file"]["bytes"], _short(row["file"]["digest"])
                entries.append((name_digest(row["image"]), len(entries), size, digest))
        if self.rows.exists():
            os.truncate(self.rows, complete)
        for part in PARTS if self.keep_maps else ():
            if (file := self._file(part)).exists():
                os.truncate(file, min(file.stat().st_size, self._map_bytes * len(entries)))
        index = np.array(entries, COLUMNS)
        return index[np.argsort(index["name"], kind="stable")]

    def _lines(self, stack: contextlib.ExitStack) -> Iterator[bytes]:
        if self.rows.exists():
            yield from stack.enter_context(open(self.rows, "rb"))

    def _has_maps(self, row: Mapping[str, Any], maps: Mapping[str, Any]) -> bool:
        """Whether the next map in each file is complete and is the row's."""
        parts = ("base",) if row["window_score"] is None else PARTS
        if not set(parts) <= set(maps):
            return False
        values = [maps[part].read(4 * row["grid"] ** 2) for part in parts]
        if any(len(value) < 4 * row["grid"] ** 2 for value in values):
            return False
        return row.get("maps") == maps_digest(values)


def _is_same(entry: Any, path: Path, masks: MaskFolders | None) -> bool:
    """Whether a file has the content of an entry of the index. Time and size are not enough: another
    photograph may have both."""
    try:
        digest = content_digest(path) if masks is None else masks.digest_with(path, content_digest(path))
        return facts_of(path).size == entry["size"] and _short(digest) == entry["digest"]
    except (OSError, DataError):
        return False


def same_file(values: Stamp | None, path: Path, masks: MaskFolders | None = None) -> bool:
    """Whether a file, with its mask of `masks`, has this stamp; None: of a file that could not be read."""
    if values is None:
        return not is_file(path)
    return _is_same({"size": values["bytes"], "digest": _short(values["digest"])}, path, masks)


def _is_stamp(values: Any) -> bool:
    if not isinstance(values, dict) or set(values) != {"bytes", "modified", "digest"}:
        return False
    numbers = all(type(values[name]) is int and abs(values[name]) < 2**63 for name in ("bytes", "modified"))
    return numbers and isinstance(values["digest"], str) and bool(DIGEST.fullmatch(values["digest"]))


def maps_digest(values: list[bytes]) -> str:
    """The digest of a row's maps, which the row stores."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(value)
    return digest.hexdigest()


def parsed(line: bytes) -> dict | None:
    """The row of a journal's line; None for a line that is cut off or lacks the keys and kinds of a row."""
    try:
        row = parsed_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(row, dict) or not all(name in row and fits(row[name]) for name, fits in KINDS.items()):
        return None
    right = all(map(_is_box, row["boxes"])) and all(map(_is_region, row["regions"]))
    return row if right and isinstance(row.get("maps", ""), str) else None


def parsed_skipped(line: bytes) -> tuple[str, str, dict | None] | None:
    """Name, reason and stamp of a line about a file that could not be scored; None as for `parsed`."""
    try:
        entry = parsed_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(entry, list) or len(entry) != 3:
        return None
    name, reason, stamp = entry
    if not isinstance(name, str) or not isinstance(reason, str) or not (stamp is None or _is_stamp(stamp)):
        return None
    return name, reason, stamp


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST


def _is_box(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == BOX and all(map(_is_number, value.values()))


def _is_region(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != BOX | LENGTHS | {"centroid", "outline"}:
        return False
    points = [value["centroid"], *value["outline"]] if isinstance(value["outline"], list) else [None]
    numbers = all(_is_number(value[name]) for name in BOX | LENGTHS)
    return numbers and all(
        isinstance(point, list) and len(point) == 2 and all(map(_is_number, point)) for point in points
    )


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < MOST


def _is_place(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    """A check that a value is a path of this pattern, or None: any other path could lie elsewhere."""
    return lambda value: value is None or isinstance(value, str) and pattern.fullmatch(value) is not None


def files_of(row: Mapping[str, Any]) -> list[str]:
    """The paths, in the output folder, of a row's picture and mask."""
    return [row[name] for name in RENDERED if row[name] is not None]


KINDS: dict[str, Callable[[Any], bool]] = {
    "image": lambda value: isinstance(value, str),
    "score": _is_number,
    "base_score": _is_number,
    "window_score": _is_number_or_none,
    "normal_percentile": _is_number_or_none,
    "threshold": _is_number_or_none,
    "anomalous": lambda value: value is None or isinstance(value, bool),
    "reason": lambda value: value is None or isinstance(value, str),
    "boxes": lambda value: isinstance(value, list),
    "pixel_threshold": _is_number_or_none,
    "regions": lambda value: isinstance(value, list),
    "width": _is_size,
    "height": _is_size,
    "grid": lambda value: type(value) is int and 0 < value <= LARGEST_GRID,
    **{name: _is_place(pattern) for name, pattern in RENDERED.items()},
    "file": _is_stamp,
}


def name_digest(name: str) -> np.uint64:
    text = name.encode("utf-8", "surrogatepass")
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def _short(digest: str) -> np.uint64:
    return np.uint64(int(digest[:16], 16))
