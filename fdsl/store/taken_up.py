"""The photographs that an interrupted or finished prediction run has scored: which of its rows still hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.archives import facts_of
from utils.files import FileStamp, content_digest, flush_to_disk, parsed_json

PARTS = ("base", "window")
NEEDED = {"image", "score", "grid", "window_score"}
COLUMNS = np.dtype([("name", "<u8"), ("row", "<i8"), ("size", "<i8"), ("modified", "<i8"), ("digest", "<u8")])
PICTURE = re.compile(r"pictures/[A-Za-z0-9._-]+\.jpg")
UNKNOWN = -1  # the size in a row of an earlier version, which did not note it


class TakenUp:
    """The whole rows of a journal, by the digests of their names: 40 bytes each, however long they are.

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
        """Whether a row is of this very photograph: its size and time, or its content, are those of then."""
        place = int(np.searchsorted(self._known["name"], name_digest(name)))
        if place >= len(self._known) or self._known["name"][place] != name_digest(name):
            return False
        known = self._known[place]
        if known["size"] != UNKNOWN and not _is_same(known, path):
            return False
        self._seen[place] = True
        return True

    def drop_others(self) -> list[str]:
        """Takes the rows out, with their maps, that `holds` was not asked for or denied; returns their names.

        Whoever is stopped meanwhile loses nothing but rows: a map belongs to its row by its digest.
        """
        kept = np.zeros(len(self._known), bool)
        kept[self._known["row"]] = self._seen
        if kept.all():
            return []
        dropped = []
        with contextlib.ExitStack() as stack:
            maps = {part: self._parts(stack, part) for part in PARTS if self._file(part).exists()}
            rows = stack.enter_context(open(self.rows.with_suffix(".new"), "wb"))
            for number, line in enumerate(stack.enter_context(open(self.rows, "rb"))):
                values = {part: old.read(self._map_bytes) for part, (old, _) in maps.items()}
                if not kept[number]:
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
        found: list[tuple] = []
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
                found.append((name_digest(row["image"]), len(found), *_stamp_of(row)))
        if self.rows.exists():
            os.truncate(self.rows, whole)
        for part in PARTS if self.keep_maps else ():
            if (file := self._file(part)).exists():
                os.truncate(file, min(file.stat().st_size, self._map_bytes * len(found)))
        known = np.array(found, COLUMNS)
        return known[np.argsort(known["name"], kind="stable")]

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
        return row.get("maps") in (None, maps_digest(values))


def _is_same(known: Any, path: Path) -> bool:
    try:
        now = facts_of(path)
        if now.size != known["size"]:
            return False
        if now.modified == known["modified"]:
            return True
        return _short(content_digest(path)) == known["digest"]
    except OSError:
        return False


def same_file(row: Mapping[str, Any], path: Path) -> bool:
    """Whether a row is of this very file: its size and time, or its content, are those of then."""
    size, modified, digest = _stamp_of(row)
    return size == UNKNOWN or _is_same({"size": size, "modified": modified, "digest": digest}, path)


def _stamp_of(row: Mapping[str, Any]) -> tuple[int, int, np.uint64]:
    """Size, time and digest that a row has; UNKNOWN where an earlier version wrote it."""
    stamp = row.get("file")
    if not isinstance(stamp, dict):
        return UNKNOWN, 0, np.uint64(0)
    try:
        return int(stamp["bytes"]), int(stamp["modified"]), _short(str(stamp["digest"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return UNKNOWN, 0, np.uint64(0)


def stamp_values(stamp: FileStamp) -> dict[str, Any]:
    """What a row says of its photograph's file."""
    return {"bytes": stamp.size, "modified": stamp.modified, "digest": stamp.digest}


def maps_digest(values: list[bytes]) -> str:
    """Of a row's maps, so that they are known to belong to it."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(value)
    return digest.hexdigest()


def parsed(line: bytes) -> dict | None:
    """A journal line's row; None where the line was cut off or is no row."""
    try:
        row = parsed_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(row, dict) or not NEEDED <= set(row) or not isinstance(row["image"], str):
        return None
    picture = row.get("picture")
    if picture is not None and not (isinstance(picture, str) and PICTURE.fullmatch(picture)):
        return None  # it would be read, or written over, elsewhere
    return row if type(row["grid"]) is int and 0 < row["grid"] <= 8192 else None


def name_digest(name: str) -> np.uint64:
    text = name.encode("utf-8", "surrogatepass")
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def _short(digest: str) -> np.uint64:
    return np.uint64(int(digest[:16], 16))
