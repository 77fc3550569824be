"""The output folder of a prediction run: first journals that grow photograph by photograph, then the results.

Each process has a journal in OUTPUT/.partial, with the pictures of its rows. An interrupted run goes on from
all of them. The results of the run before stay until those of this one are complete.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
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
    remove_folder,
    remove_leftovers,
    whole_file,
    write_csv,
    write_json,
)
from utils.options import as_stored, differing
from utils.score_rows import write_scores
from utils.signals import how_to_continue

logger = logging.getLogger("fdsl")
PARTIAL = ".partial"
LIST = "inputs.jsonl"  # the photographs in their order
FOLDERS = ("pictures", "masks")
WRITTEN = ("scores.csv", "scores.jsonl", "skipped.csv", "maps.npz", "report.html", "contact_sheet.jpg")


class PredictionFolder:
    """An output folder that is being filled: processes write journals (`journal_of`), then it is finished.

    `resume` continues an earlier run with the same `config`; ConfigError for other settings. Maps are stored
    where `config` says so. ConfigError for a folder where files of others would be overwritten.
    """

    def __init__(self, folder: Path, config: PredictionConfig, resume: bool = False) -> None:
        self.folder, self.partial = Path(folder), Path(folder) / PARTIAL
        self.list, self.keep_maps = self.partial / LIST, bool(config.save_maps)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"--output {folder} is a file; name a folder.")
        refuse_foreign(self.folder, (CONFIG, *FOLDERS, *WRITTEN), PREDICTIONS)
        if not _is_ours_to_fill(self.partial):
            raise foreign(self.folder, PARTIAL, PREDICTIONS)
        interrupted, finished = (_changed(place / CONFIG, config) for place in (self.partial, self.folder))
        if resume and (changed := finished if interrupted is None else interrupted):
            raise ConfigError(
                f"--resume: {folder} was made with another {changed[0].replace('_', ' ')}; leave --resume "
                "out to start anew."
            )
        if not resume:
            remove_folder(self.partial)
        remove_leftovers(*(self.folder / name for name in (CONFIG, *WRITTEN)))
        self._config = {"made_by": PREDICTIONS, **as_stored(config)}
        write_json(self.partial / CONFIG, self._config)
        self.list.unlink(missing_ok=True)
        if resume and finished == [] and not (self.partial / ROWS).exists():
            self._take_up_results()

    def _take_up_results(self) -> None:
        """Begins with the rows of the finished run."""
        if not (self.folder / "scores.jsonl").exists():
            return
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

    def take_inputs(self, items: Iterable[Listed] | None, masks: MaskFolders | None = None) -> None:
        """Lists the items. An item is done where an earlier run has scored its photograph, with the same mask
        of `masks`; all other rows are left out, with a warning. None: frames, which no list has: all rows
        stay."""
        earlier = self._index()
        if items is None:
            self._join(earlier.lines())
            return

        def marked() -> Iterator[Listed]:
            for item in items:
                done = item.path is not None and earlier.holds(item.name, item.path, masks)
                yield item._replace(done=done)

        write_list(self.list, marked())
        left_out = earlier.others()
        self._join(filter(None, (earlier.line(item.name) for item in read_list(self.list) if item.done)))
        for row in left_out:
            _remove_pictures(self.partial, row, {})
        gone = "its row is left out, for the file has changed or is gone"
        warn([f"{row['image']}: {gone}" for row in left_out])
        if earlier.done:
            logger.info("--resume: %d photograph(s) are done already", earlier.done)
        how_to_continue("the same command with --resume goes on after the photographs that are done")

    def _index(self) -> RowIndex:
        return RowIndex([self.partial, *_ranks(self.partial)], self.keep_maps)

    def _join(self, lines: Iterable[bytes]) -> None:
        """Makes these lines of all journals one journal, beside which all pictures lie."""
        with whole_file(self.partial / ROWS, "wb") as rows:
            rows.writelines(lines)
        for place in _ranks(self.partial):
            _move_pictures(place, self.partial)
            for name in (ROWS, SKIPPED):
                (place / name).unlink(missing_ok=True)

    def _in_order(self, skipped: Mapping[str, str]) -> Iterator[bytes]:
        """The lines of all journals in the order of the list; DataError where a photograph has neither a row
        nor a reason why it has none."""
        index, lost = self._index(), 0
        if not self.list.exists():
            yield from index.lines()
            return
        for item in read_list(self.list):
            line = index.line(item.name)
            if line is not None:
                yield line
            lost += line is None and item.name not in skipped
        if lost:
            raise DataError(
                f"{self.folder}: {lost} photograph(s) have no row, for a file of a process is missing or "
                "damaged; give the same command with --resume."
            )

    def rows(self) -> Iterator[dict]:
        """The rows of the earlier run that this one goes on with."""
        return _values(self.partial / ROWS)

    def finish(self, grid: int, fused: Any = None) -> Totals:
        """Writes scores.csv, scores.jsonl, skipped.csv and maps.npz from the journals, and removes these;
        DataError, and they stay, where a journal lacks a row.

        `fused(base, window)` makes the fused maps of maps.npz, G = `grid`. Where nothing was scored, an
        earlier run's results stay; without such a run only skipped.csv is written.
        """
        skipped = dict(entry for place in _ranks(self.partial) for entry in _values(place / SKIPPED))
        self._join(self._in_order(skipped))
        totals = totals_of(self.rows(), sum(1 for _ in self._lines()), sorted(skipped.items()))
        totals.keeps_earlier = not totals.scored and any((self.folder / name).exists() for name in WRITTEN)
        if not totals.keeps_earlier:
            self._give_way()
            write_json(self.folder / CONFIG, self._config)
            if totals.scored:
                self._write_rows(totals, grid, fused)
            if skipped:
                with whole_file(self.folder / "skipped.csv") as out:
                    named = ((as_cell(name), reason) for name, reason in sorted(skipped.items()))
                    write_csv(out, ("image", "reason"), named)
        remove_folder(self.partial)
        return totals

    def _give_way(self) -> None:
        """Removes the results of the run before, and those of its pictures that this run has not. Only
        pictures that its rows name are removed: other files there belong to the user. So the rows go last."""
        rows = self.folder / "scores.jsonl"
        for name in WRITTEN:
            if name != rows.name:
                (self.folder / name).unlink(missing_ok=True)
        index = self._index() if rows.exists() else None
        with contextlib.suppress(OSError), open(rows, "rb") as lines:
            for row in filter(None, map(parsed, lines)):
                line = index.line(row["image"]) if index is not None else None
                _remove_pictures(self.folder, row, {} if line is None else json.loads(row_in(line)))
        for name in FOLDERS:
            with contextlib.suppress(OSError):
                (self.folder / name).rmdir()

    def _write_rows(self, totals: Totals, grid: int, fused: Any) -> None:
        with whole_file(self.folder / "scores.jsonl", "wb") as out:
            out.writelines(line_of(row_in(line)) for line in self._lines())
        _move_pictures(self.partial, self.folder)
        if self.keep_maps:
            self._save_maps(totals.scored, grid, fused)
        with whole_file(self.folder / "scores.csv") as out:
            write_scores(out, self.rows(), totals.filled)

    def _lines(self) -> Iterator[bytes]:
        with open(self.partial / ROWS, "rb") as lines:
            yield from lines

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


def journal_of(output: Path, rank: int, keep_maps: bool) -> Journal:
    """The journal of a process, which lays its pictures in the journal's folder."""
    return Journal(output / PARTIAL / f"rank{rank}", keep_maps)


def _is_ours_to_fill(partial: Path) -> bool:
    """Whether predict.py may write to a folder: it is missing, empty, or predict.py's own."""
    if not os.path.lexists(partial):
        return True
    if not partial.is_dir() or partial.is_symlink():
        return False
    entries = [entry for entry in os.listdir(partial) if not LEFTOVER.fullmatch(entry)]
    return not entries or is_made_by(partial / CONFIG, PREDICTIONS)


def _changed(file: Path, config: PredictionConfig) -> list[str] | None:
    """The settings in which a config.json of predict.py differs; None where there is none."""
    if not is_made_by(file, PREDICTIONS):
        return None
    return differing(identity_of_prediction(read_json(file)), config.identity())


def _ranks(partial: Path) -> list[Path]:
    """The folders of the journals of the processes."""
    return sorted(partial.glob("rank*"))


def _move_pictures(source: Path, target: Path) -> None:
    for name in FOLDERS:
        with contextlib.suppress(FileNotFoundError), os.scandir(source / name) as pictures:
            for picture in pictures:
                if not LEFTOVER.fullmatch(picture.name):  # of a killed process
                    (target / name).mkdir(exist_ok=True)
                    os.replace(picture.path, target / name / picture.name)


def _remove_pictures(folder: Path, row: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Removes a row's picture and mask, but for those that the `other` row has."""
    for name, places in RENDERED.items():
        if places.fullmatch(row.get(name) or "") and row[name] != other.get(name):
            (folder / row[name]).unlink(missing_ok=True)


def _values(file: Path) -> Iterator[Any]:
    """The JSON values at the beginnings of a file's lines; none where there is no file."""
    with contextlib.suppress(FileNotFoundError), open(file, "rb") as lines:
        for line in lines:
            yield json.loads(row_in(line))
