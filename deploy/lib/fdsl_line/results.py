"""The output folder: scores.csv, scores.jsonl and skipped.csv, written whole when everything is inspected."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fdsl_line.errors import Refused, printable

BOX_COLUMNS = ("x", "y", "width", "height", "area")
COLUMNS = (
    "image",
    "score",
    "base_score",
    "window_score",
    "normal_percentile",
    "threshold",
    "anomalous",
    *BOX_COLUMNS,
    "boxes",
    "picture",
)
MARKER = "deploy/inspect.py"
WRITTEN = ("scores.csv", "scores.jsonl", "skipped.csv")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Folder:
    """An output folder that is being filled: `add` and `skip`, then `finish`. What an earlier run of this
    program left there gives way; Refused for a folder with such files of somebody else."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.partial = folder, folder / ".partial"
        if folder.exists() and not folder.is_dir():
            raise Refused(f"--output {printable(folder)} is a file; name a folder.")
        if not self._is_ours():
            others = [name for name in ("config.json", *WRITTEN) if (folder / name).exists()]
            if others:
                raise Refused(
                    f"--output {printable(folder)} holds {', '.join(others)}, which {MARKER} did not write; "
                    "name another folder."
                )
        for name in WRITTEN:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        (folder / "config.json").write_text(
            json.dumps({"made_by": MARKER, **facts}, indent=1) + "\n", encoding="utf-8"
        )
        self.rows = open(self.partial / "scores.jsonl", "w", encoding="utf-8")
        self.skipped: list[tuple[str, str]] = []
        self.count = 0

    def _is_ours(self) -> bool:
        try:
            stored = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(stored, dict) and stored.get("made_by") == MARKER

    def add(self, row: dict[str, Any]) -> None:
        """One photograph's row, or {"image", "error"} of one that could not be read."""
        if "error" in row:
            self.skipped.append((row["image"], row["error"]))
            return
        self.count += 1
        self.rows.write(json.dumps(row, allow_nan=False) + "\n")

    def finish(self) -> None:
        """Gives the tables their names. Without any photograph there is skipped.csv alone."""
        self.rows.close()
        made = []
        if self.skipped:
            write_table(self.partial / "skipped.csv", ("image", "reason"), self.skipped)
            made.append("skipped.csv")
        if self.count:
            write_table(self.partial / "scores.csv", COLUMNS, map(csv_row, self._read()))
            made += ["scores.csv", "scores.jsonl"]
        for name in made:
            os.replace(self.partial / name, self.folder / name)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _read(self) -> Iterator[dict[str, Any]]:
        with open(self.partial / "scores.jsonl", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def csv_row(row: dict[str, Any]) -> list[Any]:
    """A row of scores.csv: of the boxes the hottest one, and how many there are."""
    first = row["boxes"][0] if row["boxes"] else {}
    return [
        *(row[name] for name in COLUMNS[:6]),
        None if row["anomalous"] is None else int(row["anomalous"]),
        *(first.get(name) for name in BOX_COLUMNS),
        len(row["boxes"]),
        row["picture"],
    ]


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file with a header."""
    with open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([cell(value) for value in row])
        out.flush()
        os.fsync(out.fileno())


def cell(value: Any) -> Any:
    """A value of a table; text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if isinstance(value, float):
        return repr(value)
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
