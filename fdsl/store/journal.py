"""The journal of a prediction run: a line for each photograph once it is scored, and its maps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import IO, Any

import numpy as np

from fdsl.store.resume_index import PARTS, maps_digest
from utils.files import Stamp, flush_to_disk

ROWS, SKIPPED, NOTES = "rows.jsonl", "skipped.jsonl", "notes.jsonl"


class Journal:
    """rows.jsonl, skipped.jsonl and, with `keep_maps`, the maps as raw float32, in a folder. Rows and maps
    are appended to existing ones."""

    def __init__(self, folder: Path, keep_maps: bool) -> None:
        self.keep_maps = keep_maps
        self._rows = open(folder / ROWS, "ab")
        self._skipped = open(folder / SKIPPED, "wb")
        self._maps = {part: open(folder / f"{part}.f32", "ab") for part in (PARTS if keep_maps else ())}

    def add(self, row: dict[str, Any], base: np.ndarray, window: np.ndarray | None) -> None:
        """Appends one photograph's row (JSON values, `image` first) and its maps (G,G)."""
        if self.keep_maps:
            maps = [
                np.ascontiguousarray(one, np.float32).tobytes() for one in (base, window) if one is not None
            ]
            for file, values in zip(self._maps.values(), maps):
                file.write(values)
                file.flush()
            row["maps"] = maps_digest(maps)
        self._rows.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._rows.flush()

    def skip(self, name: str, reason: str, stamp: Stamp | None = None) -> None:
        """Appends a file that could not be scored; `stamp`: the file's, if it could be read at all."""
        self._skipped.write(json.dumps([name, reason, stamp]).encode() + b"\n")
        self._skipped.flush()

    def append(self, folder: Path) -> None:
        """Appends another journal's rows, skipped files and maps."""
        files = {ROWS: self._rows, SKIPPED: self._skipped}
        files |= {f"{part}.f32": file for part, file in self._maps.items()}
        for name, own in files.items():
            with open(folder / name, "rb") as other:
                shutil.copyfileobj(other, own, 2**20)

    def close(self) -> None:
        files: list[IO[Any]] = [self._rows, self._skipped, *self._maps.values()]
        for file in files:
            flush_to_disk(file)
            file.close()
