"""The output folder: scores.csv, scores.jsonl and skipped.csv, written whole when everything is scored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from deploy.pictures import PICTURES
from utils.errors import ConfigError
from utils.files import as_file, flush_to_disk, read_json, remove_folder, write_csv
from utils.score_rows import COLUMNS, csv_row
from utils.text import printable

MARKER = "deploy/inspect.py"
PARTIAL = ".partial-inspect"  # predict.py's own is called .partial
BEGUN = "config.json.tmp"
WRITTEN = ("scores.csv", "scores.jsonl", "skipped.csv")


class Folder:
    """An output folder that is being filled: `add`, then `finish`; nobody else may be writing to it. What an
    earlier run of this program left there gives way once there is something in its place. ConfigError for a
    folder with such files of somebody else."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.partial = folder, folder / PARTIAL
        others = [name for name in ("config.json", PICTURES, *WRITTEN) if (folder / name).exists()]
        if others and not is_ours(folder):
            self._refuse(", ".join(others))
        self._clear()
        self.partial.mkdir(parents=True, exist_ok=True)
        config = self.partial / "config.json"
        text = json.dumps({"made_by": MARKER, **facts}, indent=1) + "\n"
        config.with_name(BEGUN).write_text(text, encoding="utf-8")
        os.replace(config.with_name(BEGUN), config)
        self.rows = open(self.partial / "scores.jsonl", "w", encoding="utf-8")
        self.skipped: list[tuple[str, str]] = []
        self.count = 0

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"--output {printable(self.folder)} holds {what}, which {MARKER} did not write; "
            "name another folder."
        )

    def _clear(self) -> None:
        """Removes what a run that was interrupted left, and nothing else."""
        if not os.path.lexists(self.partial):
            return
        found = {entry.name for entry in self.partial.iterdir()} if self.partial.is_dir() else {PARTIAL}
        known = {"config.json", BEGUN, PICTURES, *WRITTEN}
        if not found <= known or found - {BEGUN} and not is_ours(self.partial):
            self._refuse(PARTIAL)
        for name in sorted(found, key="config.json".__eq__):  # the one that names the owner last
            if name == PICTURES:
                remove_folder(self.partial / name)
            else:
                (self.partial / name).unlink()
        self.partial.rmdir()

    def add(self, row: dict[str, Any]) -> None:
        """One photograph's row, or {"image", "error"} of one that could not be read."""
        if "error" in row:
            self.skipped.append((row["image"], row["error"]))
            return
        self.count += 1
        self.rows.write(json.dumps(row, allow_nan=False) + "\n")

    def finish(self) -> bool:
        """Gives the tables their names. Where nothing was scored there is skipped.csv alone, and that only
        where no earlier run's results lie. Returns whether anything was written."""
        flush_to_disk(self.rows)
        self.rows.close()
        has_results = any((self.folder / name).exists() for name in WRITTEN)
        made = ["config.json"]
        if self.skipped:
            skipped = ((as_file(name), reason) for name, reason in self.skipped)
            write_table(self.partial / "skipped.csv", ("image", "reason"), skipped)
            made.append("skipped.csv")
        if self.count:
            write_table(self.partial / "scores.csv", COLUMNS, map(csv_row, self._read()))
            made += ["scores.csv", "scores.jsonl"]
        writes = self.count > 0 or not has_results
        if writes:
            for name in WRITTEN:
                (self.folder / name).unlink(missing_ok=True)
            remove_folder(self.folder / PICTURES)
            if (self.partial / PICTURES).is_dir():
                made.append(PICTURES)
            for name in made:
                os.replace(self.partial / name, self.folder / name)
        for name in ("scores.jsonl", *made[1:], "config.json"):
            (self.partial / name).unlink(missing_ok=True)
        self.partial.rmdir()
        return writes

    def _read(self) -> Iterator[dict[str, Any]]:
        with open(self.partial / "scores.jsonl", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def is_ours(folder: Path) -> bool:
    """Whether this program wrote the config.json in a folder."""
    stored = read_json(folder / "config.json")
    return isinstance(stored, dict) and stored.get("made_by") == MARKER


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file that is on the disk when this returns."""
    with open(file, "w", encoding="utf-8", newline="") as out:
        write_csv(out, columns, rows)
        flush_to_disk(out)
