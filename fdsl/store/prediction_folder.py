"""The output folder of a prediction run: first a journal that grows photograph by photograph, then the
results.

The journal lies in OUTPUT/.partial. Of several processes each one has a journal of its own there, with the
pictures of its rows. An interrupted run goes on from all of them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from data.inputs import PREDICTIONS, Listed, read_list, write_list
from data.region_of_interest import MaskFolders
from fdsl.config.run_config import PredictionConfig, identity_of_prediction
from fdsl.store.journal import (
    RENDERED,
    ROWS,
    SKIPPED,
    Journal,
    RowIndex,
    Totals,
    in_base64,
    line_of,
    maps_in,
    parsed,
    row_in,
    totals_of,
)
from fdsl.store.maps import RunMaps, load_maps, save_maps
from models.features import ScoreMaps
from utils.console import warn
from utils.errors import ConfigError, DataError
from utils.files import (
    CONFIG,
    LEFTOVER,
    as_cell,
    foreign,
    is_made_by,
    read_json,
    refuse_foreign,
    remove_leftovers,
    remove_leftovers_in,
    whole_file,
    write_csv,
    write_json,
)
from utils.options import as_stored, differing
from utils.score_rows import write_scores
from utils.signals import how_to_continue

logger = logging.getLogger("fdsl")
PARTIAL = ".partial"
OWNER = "made_by.json"  # marks .partial as predict.py's
EARLIER = "earlier.jsonl"  # rows of interrupted runs whose pictures still exist
LIST = "inputs.jsonl"  # the photographs in their order
FOLDERS = ("pictures", "masks")
WRITTEN = ("scores.csv", "scores.jsonl", "skipped.csv", "maps.npz", "report.html", "contact_sheet.jpg")


class PredictionFolder:
    """An output folder that is being filled: its `journal` photograph by photograph, then `finish`.

    `resume` continues an earlier run with the same `config`; ConfigError for other settings. Without it an
    earlier run's files are removed once the first photograph is scored. Maps are stored where `config` says
    so. ConfigError for a folder where files of others would be overwritten.
    """

    def __init__(self, folder: Path, config: PredictionConfig, resume: bool = False) -> None:
        self.folder, self.partial = Path(folder), Path(folder) / PARTIAL
        self.list, self.keep_maps = self.partial / LIST, bool(config.save_maps)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"--output {folder} is a file; name a folder.")
        refuse_foreign(self.folder, (CONFIG, *FOLDERS, *WRITTEN), PREDICTIONS)
        if not _is_ours_to_fill(self.partial):
            raise foreign(self.folder, PARTIAL, PREDICTIONS)
        stored = self._stored_config() if resume else None
        if stored and (changed := differing(identity_of_prediction(stored), config.identity())):
            raise ConfigError(
                f"--resume: {folder} was made with another {changed[0].replace('_', ' ')}; leave --resume "
                "out to start anew."
            )
        self.partial.mkdir(parents=True, exist_ok=True)
        write_json(self.partial / OWNER, {"made_by": PREDICTIONS})
        remove_leftovers(*(self.folder / name for name in (CONFIG, *WRITTEN)))
        for name in FOLDERS:
            remove_leftovers_in(self.folder / name)
        if not resume:
            self._set_aside()
        began = stored is not None and not (self.partial / CONFIG).exists()
        self._config = {"made_by": PREDICTIONS, **as_stored(config)}
        if not began:
            write_json(self.partial / CONFIG, self._config)
        (self.partial / SKIPPED).unlink(missing_ok=True)
        if began and not (self.partial / ROWS).exists() and (self.folder / "scores.jsonl").exists():
            self._take_up_results()
        self._earlier = RowIndex([self.partial, *_ranks(self.partial)], self.keep_maps)
        self._began, self._dropped = began, dict[str, dict]()  # rows of an earlier run by their names

    def _stored_config(self) -> dict[str, Any] | None:
        """The settings of the run in the folder; those of one without a row yet come before an earlier
        run's."""
        files = (self.partial / CONFIG, self.folder / CONFIG)
        return next((read_json(file) for file in files if is_made_by(file, PREDICTIONS)), None)

    @cached_property
    def journal(self) -> Journal:
        """The journal of a single process, which lays its pictures in the output folder."""
        return Journal(self.partial, self.keep_maps, self.folder, self.give_way)

    def _take_up_results(self) -> None:
        """Begins the journal with the rows of the finished run."""
        maps: Iterator[bytes] = repeat(b"")
        if self.keep_maps:
            if not (self.folder / "maps.npz").exists():
                raise ConfigError(
                    f"--resume --save-maps: {self.folder} has scores but no maps.npz; leave --resume out."
                )
            stored = load_maps(self.folder / "maps.npz").maps
            windows = repeat(None) if stored.window is None else stored.window
            maps = map(in_base64, stored.base, windows)
        with open(self.folder / "scores.jsonl", "rb") as rows, open(self.partial / ROWS, "wb") as journal:
            journal.writelines(line_of(row_in(row), of_row) for row, of_row in zip(rows, maps))

    def take_inputs(self, items: Iterable[Listed], masks: MaskFolders | None) -> None:
        """Lists the items. An item is done where an earlier run has scored its photograph, with the same mask
        of `masks`; all other rows are left out, with a warning."""

        def marked() -> Iterator[Listed]:
            for item in items:
                done = item.path is not None and self._earlier.holds(item.name, item.path, masks)
                yield item._replace(done=done)

        write_list(self.list, marked())
        self._dropped = {row["image"]: row for row in self._earlier.others()}
        if self._dropped or _ranks(self.partial):
            self._join(self._earlier, (item.name for item in read_list(self.list) if item.done))
        warn([f"{name}: its row is left out, for the file has changed or is gone" for name in self._dropped])
        if self._earlier.done:
            logger.info("--resume: %d photograph(s) are done already", self._earlier.done)
        how_to_continue("the same command with --resume goes on after the photographs that are done")

    def join_ranks(self) -> None:
        """Takes over the rows of all processes, in the order of the list; DataError, and they stay, where a
        photograph has neither a row nor a reason why it has none."""
        ranks = _ranks(self.partial)
        skipped = dict(entry for place in ranks for entry in _values(place / SKIPPED))
        names = (item.name for item in read_list(self.list) if item.path is not None)
        self._join(RowIndex([self.partial, *ranks], self.keep_maps), names, skipped)
        for name, reason in skipped.items():
            self.journal.skip(name, reason)
        if any(self.rows()):
            self.give_way()

    def _join(self, index: RowIndex, names: Iterable[str], without: Mapping[str, str] = {}) -> None:
        """Brings the rows of these names, and their maps, into one journal in this order; DataError where one
        has no row and is not among those `without`."""
        lost = 0
        with whole_file(self.partial / ROWS, "wb") as rows:
            for name in names:
                line = index.line(name)
                rows.write(line or b"")
                lost += line is None and name not in without
            if lost:
                raise DataError(
                    f"{self.folder}: {lost} photograph(s) have no row, for a file of a process is missing or "
                    "damaged; give the same command with --resume."
                )
        for place in _ranks(self.partial):
            for name in (ROWS, SKIPPED):
                (place / name).unlink(missing_ok=True)

    def give_way(self) -> None:
        """Removes an earlier run's results before this one's first row: its numbers would not fit the new
        pictures.

        Only pictures that its rows name are removed: other files there belong to the user.
        """
        waiting = self.partial / CONFIG
        if self._began:
            return
        self._began = True
        for journal in (self.folder / "scores.jsonl", self.partial / EARLIER):
            with contextlib.suppress(OSError), open(journal, "rb") as lines:
                self._remove_pictures(filter(None, map(parsed, lines)))
        for name in FOLDERS:
            with contextlib.suppress(OSError):
                (self.folder / name).rmdir()
        for name in WRITTEN:
            (self.folder / name).unlink(missing_ok=True)
        os.replace(waiting, self.folder / CONFIG)

    def _remove_pictures(self, rows: Iterable[dict]) -> None:
        for row in rows:
            for name, places in RENDERED.items():
                if places.fullmatch(row.get(name) or ""):
                    (self.folder / row[name]).unlink(missing_ok=True)

    def _set_aside(self) -> None:
        """Removes an interrupted run's files in .partial, except the rows that name its pictures."""
        rows = self.partial / ROWS
        if rows.exists():
            with open(rows, "rb") as before, open(self.partial / EARLIER, "ab") as earlier:
                shutil.copyfileobj(before, earlier, 2**20)
        for entry in list(self.partial.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name not in (OWNER, EARLIER):
                entry.unlink(missing_ok=True)

    def rows(self) -> Iterator[dict]:
        """The rows so far."""
        return _values(self.partial / ROWS)

    def finish(self, grid: int, fused: Any = None) -> Totals:
        """Writes scores.csv, scores.jsonl, skipped.csv and maps.npz from the journal, and removes it.

        `fused(base, window)` makes the fused maps of maps.npz, G = `grid`. Where nothing was scored, an
        earlier run's results stay; without such a run only skipped.csv is written.
        """
        self.journal.close()
        skipped = sorted(_values(self.partial / SKIPPED))
        totals = totals_of(self.rows(), sum(1 for _ in self._lines()), skipped)
        totals.keeps_earlier = not totals.scored and any((self.folder / name).exists() for name in WRITTEN)
        if totals.keeps_earlier:
            shutil.rmtree(self.partial, ignore_errors=True)
            return totals
        self.give_way()
        write_json(self.folder / CONFIG, self._config)
        for row in self.rows() if self._dropped else ():
            self._dropped.pop(row["image"], None)
        self._remove_pictures(self._dropped.values())
        self._place_pictures()
        (self.folder / "skipped.csv").unlink(missing_ok=True)
        if skipped:
            with whole_file(self.folder / "skipped.csv") as out:
                write_csv(out, ("image", "reason"), ((as_cell(name), reason) for name, reason in skipped))
        if totals.scored:
            if self.keep_maps:
                self._save_maps(totals.scored, grid, fused)
            with whole_file(self.folder / "scores.csv") as out:
                write_scores(out, self.rows(), totals.filled)
            with whole_file(self.folder / "scores.jsonl", "wb") as out:
                out.writelines(line_of(row_in(line)) for line in self._lines())
        shutil.rmtree(self.partial, ignore_errors=True)
        return totals

    def _lines(self) -> Iterator[bytes]:
        with open(self.partial / ROWS, "rb") as lines:
            yield from lines

    def _place_pictures(self) -> None:
        """Moves the pictures and masks of the processes to the output folder."""
        for source in (place / name for place in _ranks(self.partial) for name in FOLDERS):
            with contextlib.suppress(FileNotFoundError), os.scandir(source) as pictures:
                for picture in pictures:
                    (self.folder / source.name).mkdir(exist_ok=True)
                    os.replace(picture.path, self.folder / source.name / picture.name)

    def _save_maps(self, count: int, grid: int, fused: Any) -> None:
        rows = list(self.rows())

        def scores_of(name: str) -> np.ndarray:
            return np.array([row[name] for row in rows], np.float32)

        window_score = None if rows[0]["window_score"] is None else scores_of("window_score")
        maps = np.empty((1 if window_score is None else 2, count, grid, grid), np.float32)
        for number, line in enumerate(self._lines()):
            maps[:, number] = maps_in(line, grid)
        base, window = maps if len(maps) == 2 else (maps[0], None)
        run = RunMaps(
            [row["image"] for row in rows], ScoreMaps(base, scores_of("base_score"), window, window_score)
        )
        save_maps(self.folder / "maps.npz", run, fused(base, window), scores_of("score"))


def _is_ours_to_fill(partial: Path) -> bool:
    """Whether predict.py may write to a folder: it is missing, empty, or predict.py's own."""
    if not os.path.lexists(partial):
        return True
    if not partial.is_dir() or partial.is_symlink():
        return False
    entries = [entry for entry in os.listdir(partial) if not LEFTOVER.fullmatch(entry)]
    return not entries or is_made_by(partial / OWNER, PREDICTIONS)


def _ranks(partial: Path) -> list[Path]:
    """The folders of the journals of several processes."""
    return sorted(partial.glob("rank*"))


def rank_journal(output: Path, number: int, keep_maps: bool) -> Journal:
    """The journal of one of several processes, which lays its pictures in the journal's folder."""
    return Journal(output / PARTIAL / f"rank{number}", keep_maps)


def _values(file: Path) -> Iterator[Any]:
    """The JSON values at the beginnings of a file's lines; none where there is no file."""
    with contextlib.suppress(FileNotFoundError), open(file, "rb") as lines:
        for line in lines:
            yield json.loads(row_in(line))
