"""The output folder: scores.csv, scores.jsonl and skipped.csv, written whole when everything is scored."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from deploy.pictures import PICTURES
from utils.errors import ConfigError
from utils.files import (
    as_cell,
    flush_to_disk,
    read_json,
    remove_folder,
    remove_leftovers,
    whole_file,
    write_csv,
    write_json,
)
from utils.score_rows import filled_columns, write_scores
from utils.text import printable

MARKER = "deploy/inspect.py"
PARTIAL = ".partial-inspect"  # predict.py's own is called .partial
CONFIG, ROWS, TABLE, SKIPPED = "config.json", "scores.jsonl", "scores.csv", "skipped.csv"


class Folder:
    """An output folder that is being filled: `add`, then `finish`; nobody else may be writing to it. What an
    earlier run of this program left there gives way once there is something in its place. ConfigError for a
    folder with such files of somebody else. `partial`: where pictures lie until then."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.partial = folder, folder / PARTIAL
        refuse_foreign(folder, (CONFIG, PICTURES, ROWS, TABLE, SKIPPED), MARKER)
        if os.path.lexists(self.partial):  # of a run that was interrupted
            remove_leftovers(self.partial / CONFIG)
            left = set(os.listdir(self.partial)) if self.partial.is_dir() else {PARTIAL}
            if not left <= {CONFIG, PICTURES} or left and not is_of(self.partial, MARKER):
                raise foreign(folder, PARTIAL, MARKER)
            remove_folder(self.partial)
        write_json(self.partial / CONFIG, {"made_by": MARKER, **facts})
        self.rows = tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8")
        self.skipped: list[tuple[str, str]] = []
        self.count, self.filled = 0, set[str]()

    def add(self, row: dict[str, Any]) -> None:
        """One photograph's row, or {"image", "error"} of one that could not be read."""
        if "error" in row:
            self.skipped.append((row["image"], row["error"]))
            return
        self.count += 1
        self.filled |= filled_columns(row)
        self.rows.write(json.dumps(row, allow_nan=False) + "\n")

    def finish(self) -> bool:
        """Writes the tables. Where nothing was scored there is skipped.csv alone, and that only where no
        earlier run's results lie. Returns whether anything was written."""
        results = [self.folder / name for name in (ROWS, TABLE, SKIPPED)]
        writes = self.count > 0 or not any(file.exists() for file in results)
        if writes:
            with ExitStack() as whole:  # all of them take their names at its end
                written = []
                if self.count:
                    written += [whole.enter_context(whole_file(file)) for file in results[:2]]
                    self._write_rows(*written)
                if self.skipped:
                    written.append(whole.enter_context(whole_file(results[2])))
                    skipped = ((as_cell(name), reason) for name, reason in self.skipped)
                    write_csv(written[-1], ("image", "reason"), skipped)
                for made in written:  # a full disk is met before anything gives way
                    flush_to_disk(made)
                for file in results:
                    file.unlink(missing_ok=True)
                remove_folder(self.folder / PICTURES)
                for name in (PICTURES, CONFIG):
                    if (self.partial / name).exists():
                        os.replace(self.partial / name, self.folder / name)
        self.rows.close()
        remove_folder(self.partial)
        return writes

    def _write_rows(self, lines: IO[str], table: IO[str]) -> None:
        def rows():
            self.rows.seek(0)
            for line in self.rows:
                lines.write(line)
                yield json.loads(line)

        write_scores(table, rows(), self.filled)


def is_of(folder: Path, made_by: str) -> bool:
    """Whether a program wrote the config.json in a folder."""
    stored = read_json(folder / CONFIG)
    return isinstance(stored, dict) and stored.get("made_by") == made_by


def refuse_foreign(folder: Path, names: Sequence[str], made_by: str) -> None:
    """ConfigError for a folder with files of these names that another program wrote."""
    others = [name for name in names if (folder / name).exists()]
    if others and not is_of(folder, made_by):
        raise foreign(folder, ", ".join(others), made_by)


def foreign(folder: Path, what: str, made_by: str) -> ConfigError:
    return ConfigError(
        f"--output {printable(folder)} holds {what}, which {made_by} did not write; name another folder."
    )
