"""An output folder that is never finished: each row is on the disk before the next photograph is scored,
so that a restart goes on where the last run ended, however that ended."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from deploy.results import ROWS, SKIPPED, TABLE
from utils.errors import ConfigError
from utils.files import (
    CONFIG,
    as_cell,
    csv_cells,
    flush_to_disk,
    read_json,
    refuse_foreign,
    write_csv,
    write_json,
)
from utils.options import differing
from utils.score_rows import COLUMNS, cells_of, parsed_row, write_scores
from utils.text import printable

MADE_BY = "deploy/inspect.py --watch"
SKIPPED_COLUMNS = ("image", "reason")


class Journal:
    """scores.jsonl, scores.csv and skipped.csv of an endless run. `facts`: of the detector; a folder with
    rows of another one, or with files of another program, is a ConfigError. Nobody else may be writing to it.

    done: the `key` of each photograph that has a row. count: rows of all runs.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], made_by: str = MADE_BY) -> None:
        self.folder, self.done, self.count = folder, set[int](), 0
        self._made_by = made_by
        self._take_over({"made_by": made_by, **facts})
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, {"made_by": made_by, **facts})
        self._mend()
        self._rows = open(folder / ROWS, "a", encoding="utf-8")
        self._table = open(folder / TABLE, "a", encoding="utf-8", newline="")
        self._skipped = self._read_skipped()

    def _take_over(self, facts: dict[str, Any]) -> None:
        """ConfigError for a folder whose files are another program's, or rows another detector's."""
        refuse_foreign(self.folder, (CONFIG, ROWS, TABLE, SKIPPED), self._made_by)
        stored, name = read_json(self.folder / CONFIG) or {}, printable(self.folder)
        if stored != facts and (self.folder / ROWS).exists():
            raise ConfigError(
                f"--output {name} holds rows of another detector ({', '.join(differing(stored, facts))}); "
                "name another folder for this one."
            )

    def _mend(self) -> None:
        """Reads the rows; a last one that was cut off by a kill goes, and scores.csv is written anew."""
        file = self.folder / ROWS
        file.touch()
        with open(file, "rb+") as lines:
            whole = 0
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._note(self._parsed(line))
                whole += len(line)
            lines.truncate(whole)
        with open(self.folder / TABLE, "w", encoding="utf-8", newline="") as out:
            write_scores(out, self.rows(), COLUMNS)  # what a later row may fill

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all runs so far."""
        with open(self.folder / ROWS, encoding="utf-8") as lines:
            yield from map(self._parsed, lines)

    def _parsed(self, line: str | bytes) -> dict[str, Any]:
        row = parsed_row(line)
        if row is None:
            raise ConfigError(
                f"{printable(self.folder / ROWS)} line {self.count + 1} is no row of a photograph; name "
                "another folder with --output, and keep this one."
            )
        return row

    def _note(self, row: dict[str, Any]) -> None:
        self.count += 1
        stamp = row.get("file")
        if isinstance(stamp, dict):
            self.done.add(key(row["image"], stamp.get("bytes"), stamp.get("modified")))

    def _read_skipped(self) -> set[tuple[str, ...]]:
        try:
            with open(self.folder / SKIPPED, encoding="utf-8-sig", newline="") as table:
                return {tuple(row) for row in csv.reader(table)}
        except OSError:
            return set()

    def add(self, row: dict[str, Any]) -> None:
        """A photograph's row; it is on the disk when this returns."""
        self._rows.write(json.dumps(row, allow_nan=False) + "\n")
        flush_to_disk(self._rows)
        _append(self._table, cells_of(row).values())
        self._note(row)

    def skip(self, name: str, reason: str) -> None:
        """A photograph that cannot be read: a line of skipped.csv, once."""
        entry = tuple(csv_cells((as_cell(name), reason)))
        if entry in self._skipped:
            return
        self._skipped.add(entry)
        is_new = not (self.folder / SKIPPED).exists()
        with open(self.folder / SKIPPED, "a", encoding="utf-8", newline="") as out:
            if is_new:
                write_csv(out, SKIPPED_COLUMNS, [])
            _append(out, entry)

    def close(self) -> None:
        self._rows.close()
        self._table.close()


def key(name: str, size: Any, modified: Any) -> int:
    """What identifies a photograph within a process, in few bytes: name, size and time of change (ns)."""
    return hash((name, size, modified))


def _append(out: IO[str], cells: Any) -> None:
    csv.writer(out, lineterminator="\n").writerow(csv_cells(cells))
    out.flush()
