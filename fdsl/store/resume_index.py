"""The photographs that an interrupted or finished prediction run has scored: which of its rows still hold."""

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

from utils.archives import facts_of, is_file
from utils.files import Stamp, content_digest, flush_to_disk, parsed_json

PARTS = ("base", "window")
BOX = {"x", "y", "width", "height", "area", "peak"}
LENGTHS = {"major_axis", "minor_axis", "orientation", "mean"}  # which a region has too
MOST, LARGEST_GRID = 1e9, 8192
DIGEST = re.compile(r"[0-9a-f]{16}")
COLUMNS = np.dtype([("name", "<u8"), ("row", "<i8"), ("size", "<i8"), ("digest", "<u8")])
PICTURE = re.compile(r"pictures/[A-Za-z0-9._-]+\.jpg")
MASK = re.compile(r"masks/[A-Za-z0-9._-]+\.png")
MADE = {"picture": PICTURE, "mask": MASK}  # what a row names in its output folder


class TakenUp:
    """The whole rows of a journal, by the digests of their names: 32 bytes each, however long they are.

    `folder`: the journal's; `keep_maps`: each row has its maps in base.f32 and window.f32. What is not whole
    in all its files is cut off, and so is everything after it.
    """

    def __init__(self, folder: Path, keep_maps: bool) -> None:
        self.folder, self.keep_maps = folder, keep_maps
        self.rows = folder / "rows.jsonl"
        self._side: int | None = None
        self._known = self._cut_to_what_is_whole()
        self._seen = np.zeros(len(self._known), bool)

    def __len__(self) -> int:
        return len(self._known)

    def holds(self, name: str, path: Path) -> bool:
        """Whether a row is of this very photograph: its content is that of then."""
        place = self._place(name)
        if place is None or not _is_same(self._known[place], path):
            return False
        self._seen[place] = True
        return True

    def has(self, name: str) -> bool:
        """Whether `holds` was asked for this name, and so it was."""
        place = self._place(name)
        return place is not None and bool(self._seen[place])

    def _place(self, name: str) -> int | None:
        place = int(np.searchsorted(self._known["name"], name_digest(name)))
        return place if place < len(self._known) and self._known["name"][place] == name_digest(name) else None

    def drop_others(self) -> list[str]:
        """Takes the rows out, with their maps, that `holds` was not asked for or denied; returns their names.

        Whoever is stopped meanwhile loses nothing but rows: a map belongs to its row by its digest.
        """
        stays = np.zeros(len(self._known), bool)
        stays[self._known["row"]] = self._seen
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
        left = self._known[self._seen]
        left["row"] = np.argsort(np.argsort(left["row"]))
        self._known, self._seen = left, np.ones(len(left), bool)
        return dropped

    def _parts(self, stack: contextlib.ExitStack, part: str) -> tuple[Any, Any]:
        file = self._file(part)
        return stack.enter_context(open(file, "rb")), stack.enter_context(
            open(file.with_suffix(".new"), "wb")
        )

    def _file(self, part: str) -> Path:
        return self.folder / f"{part}.f32"

    @property
    def _map_bytes(self) -> int:
        return 4 * (self._side or 0) ** 2

    def _cut_to_what_is_whole(self) -> np.ndarray:
        """What is known of the whole rows, sorted by name; the journal and its maps are cut to them."""
        entries: list[tuple] = []
        whole = 0
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
                whole += len(line)
                self._side = row["grid"]
                size, digest = row["file"]["bytes"], _short(row["file"]["digest"])
                entries.append((name_digest(row["image"]), len(entries), size, digest))
        if self.rows.exists():
            os.truncate(self.rows, whole)
        for part in PARTS if self.keep_maps else ():
            if (file := self._file(part)).exists():
                os.truncate(file, min(file.stat().st_size, self._map_bytes * len(entries)))
        index = np.array(entries, COLUMNS)
        return index[np.argsort(index["name"], kind="stable")]

    def _lines(self, stack: contextlib.ExitStack) -> Iterator[bytes]:
        if self.rows.exists():
            yield from stack.enter_context(open(self.rows, "rb"))

    def _has_maps(self, row: Mapping[str, Any], maps: Mapping[str, Any]) -> bool:
        """Whether the next map of each part is there and is the row's."""
        parts = ("base",) if row["window_score"] is None else PARTS
        if not set(parts) <= set(maps):
            return False
        values = [maps[part].read(4 * row["grid"] ** 2) for part in parts]
        if any(len(value) < 4 * row["grid"] ** 2 for value in values):
            return False
        return row.get("maps") == maps_digest(values)


def _is_same(known: Any, path: Path) -> bool:
    """Whether a file's content is the known one. Neither its time nor its size says so: another photograph
    may have both."""
    try:
        return facts_of(path).size == known["size"] and _short(content_digest(path)) == known["digest"]
    except OSError:
        return False


def same_file(values: Stamp | None, path: Path) -> bool:
    """Whether a file is the one of this stamp; None: of one that could not be read."""
    if values is None:
        return not is_file(path)
    return _is_same({"size": values["bytes"], "digest": _short(values["digest"])}, path)


def _is_stamp(values: Any) -> bool:
    if not isinstance(values, dict) or set(values) != {"bytes", "modified", "digest"}:
        return False
    numbers = all(type(values[name]) is int and abs(values[name]) < 2**63 for name in ("bytes", "modified"))
    return numbers and isinstance(values["digest"], str) and bool(DIGEST.fullmatch(values["digest"]))


def maps_digest(values: list[bytes]) -> str:
    """Of a row's maps, so that they are known to belong to it."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(value)
    return digest.hexdigest()


def parsed(line: bytes) -> dict | None:
    """A journal line's row; None where the line was cut off or is no row of ours: whatever reads it goes by
    its keys and kinds."""
    try:
        row = parsed_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(row, dict) or not all(name in row and fits(row[name]) for name, fits in KINDS.items()):
        return None
    right = all(map(_is_box, row["boxes"])) and all(map(_is_region, row["regions"]))
    return row if right and isinstance(row.get("maps", ""), str) else None


def parsed_skipped(line: bytes) -> tuple[str, str, dict | None] | None:
    """The same of a line about a file that could not be scored: its name, the reason and the file's stamp."""
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
    """Whether a value is a place of this pattern: anything else would be read, or written over, elsewhere."""
    return lambda value: value is None or isinstance(value, str) and pattern.fullmatch(value) is not None


def made_by(row: Mapping[str, Any]) -> list[str]:
    """The places in the output folder of what was made of a row's photograph: its picture, its mask."""
    return [row[name] for name in MADE if row[name] is not None]


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
    **{name: _is_place(pattern) for name, pattern in MADE.items()},
    "file": _is_stamp,
}


def name_digest(name: str) -> np.uint64:
    text = name.encode("utf-8", "surrogatepass")
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def _short(digest: str) -> np.uint64:
    return np.uint64(int(digest[:16], 16))
