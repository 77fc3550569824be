"""The output folder: scores.csv, scores.jsonl and skipped.csv, written whole when everything is scored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from deploy.pillow_pictures import PICTURES
from utils.files import (
    CONFIG,
    as_cell,
    flush_to_disk,
    foreign,
    is_made_by,
    refuse_foreign,
    remove_folder,
    remove_leftovers,
    write_csv,
    write_json,
)
from utils.score_rows import filled_columns, write_scores

MARKER = "deploy/inspect.py"
PARTIAL = ".partial-inspect"  # predict.py's own is called .partial
ROWS, TABLE, SKIPPED = "scores.jsonl", "scores.csv", "skipped.csv"


class Folder:
    """An output folder that is being filled: `add`, then `finish`; nobody else may be writing to it. Its
    files lie in the folder `partial` until then. What an earlier run of this program left gives way once
    there is something in its place. ConfigError for a folder with such files of somebody else."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.partial = folder, folder / PARTIAL
        names = (CONFIG, PICTURES, ROWS, TABLE, SKIPPED)
        refuse_foreign(folder, names, MARKER)
        if os.path.lexists(self.partial):  # of a run that was interrupted
            remove_leftovers(self.partial / CONFIG)
            left = set(os.listdir(self.partial)) if self.partial.is_dir() else {PARTIAL}
            if not left <= {*names} or left and not is_made_by(self.partial / CONFIG, MARKER):
                raise foreign(folder, PARTIAL, MARKER)
            remove_folder(self.partial)
        write_json(self.partial / CONFIG, {"made_by": MARKER, **facts})
        self._rows = open(self.partial / ROWS, "w", encoding="utf-8", newline="")
        self.skipped: list[tuple[str, str]] = []
        self.count, self.filled = 0, set[str]()

    def add(self, row: dict[str, Any]) -> None:
        """One photograph's row, or {"image", "error"} of one that could not be read."""
        if "error" in row:
            self.skipped.append((as_cell(row["image"]), row["error"]))
            return
        self.count += 1
        self.filled |= filled_columns(row)
        self._rows.write(json.dumps(row, allow_nan=False) + "\n")

    def finish(self) -> bool:
        """Writes the tables. Where nothing was scored there is skipped.csv alone, and that only where no
        earlier run's results lie. Returns whether anything was written."""
        with self._rows:
            flush_to_disk(self._rows)
        results = (ROWS, TABLE, SKIPPED)
        writes = self.count > 0 or not any((self.folder / name).exists() for name in results)
        if writes:
            self._write_tables()  # a full disk is met before anything gives way
            for name in results:
                (self.folder / name).unlink(missing_ok=True)
            remove_folder(self.folder / PICTURES)
            for name in (PICTURES, CONFIG, *results):
                if (self.partial / name).exists():
                    os.replace(self.partial / name, self.folder / name)
        remove_folder(self.partial)
        return writes

    def _write_tables(self) -> None:
        if self.count:
            with (
                open(self.partial / ROWS, encoding="utf-8", newline="") as rows,
                open(self.partial / TABLE, "w", encoding="utf-8", newline="") as table,
            ):
                write_scores(table, map(json.loads, rows), self.filled)
                flush_to_disk(table)
        else:
            (self.partial / ROWS).unlink()
        if self.skipped:
            with open(self.partial / SKIPPED, "w", encoding="utf-8", newline="") as table:
                write_csv(table, ("image", "reason"), self.skipped)
                flush_to_disk(table)
