"""The output folder of a prediction run: first a journal that grows photograph by photograph, then the
results.

The journal lies in OUTPUT/.partial: rows.jsonl, one line per photograph, and its maps as raw float32. Of
several processes each one has a journal of its own there, with the pictures of its rows. An interrupted run
goes on from all of them.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import logging
import os
import random
import re
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.manifest import Listed, read_list
from data.region_of_interest import MaskFolders
from fdsl.config.run_config import PredictionConfig, identity_of_prediction
from fdsl.store.journal import ROWS, SKIPPED, Journal, RowIndex, map_files, parsed
from fdsl.store.maps import RunMaps, load_maps, save_maps
from models.features import ScoreMaps
from utils.drift import FILE
from utils.errors import ConfigError, DataError
from utils.files import (
    LEFTOVER,
    as_cell,
    read_json,
    remove_leftovers,
    remove_leftovers_in,
    whole_file,
    write_csv,
    write_json,
)
from utils.log import warn
from utils.options import as_stored
from utils.score_rows import LISTED_SKIPPED, filled_columns, write_scores

logger = logging.getLogger("fdsl")
RANKED = 500  # highest rows, for the report,
SAMPLE = 100  # and where there are more, a sample of all of them
MARKER = "predict"
PARTIAL = ".partial"
OWNER = "made_by.json"  # marks .partial as predict.py's
EARLIER = "earlier.jsonl"  # rows of interrupted runs whose pictures still exist
LIST = "inputs.jsonl"  # the photographs in their order
JOINED = "joined"  # the journal that the rows of several are brought into
FOLDERS = ("pictures", "masks")
# A row's files in the output folder; any other path could lie elsewhere.
RENDERED = {
    "picture": re.compile(r"pictures/[A-Za-z0-9._-]+\.jpg"),
    "mask": re.compile(r"masks/[A-Za-z0-9._-]+\.png"),
}
WRITTEN = ("scores.csv", "scores.jsonl", "skipped.csv", "maps.npz", "report.html", "contact_sheet.jpg", FILE)


@dataclass
class Totals:
    """The totals of a finished run: counts, every score (n,) float64, the rows with the highest scores, and a
    sample of all rows where there are more. `reasoned`: the scores of photographs that cannot be judged
    normal, whatever they score. `filled`: the columns of scores.csv. `keeps_earlier`: nothing was scored, and
    the results of the run before stay."""

    scored: int = 0
    anomalous: int = 0
    skipped: int = 0
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    top: list[dict] = field(default_factory=list)
    first_skipped: list[tuple[str, str]] = field(default_factory=list)
    sample: list[dict] = field(default_factory=list)
    reasoned: list[float] = field(default_factory=list)
    filled: set[str] = field(default_factory=set)
    keeps_earlier: bool = False


class PredictionFolder:
    """An output folder that is being filled: `add` photograph by photograph, then `finish`.

    `resume` continues an earlier run with the same `config`; ConfigError for other settings. Without it an
    earlier run's files are removed once the first photograph is scored. Maps are stored only with
    `keep_maps`. ConfigError for a folder where files of others would be overwritten.
    """

    def __init__(
        self, folder: Path, config: PredictionConfig, resume: bool = False, keep_maps: bool = False
    ) -> None:
        self.folder, self.partial, self.keep_maps = Path(folder), Path(folder) / PARTIAL, keep_maps
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"--output {folder} is a file; name a folder.")
        others = [name for name in ("config.json", *FOLDERS, *WRITTEN) if (self.folder / name).exists()]
        others = [] if _is_ours(self.folder / "config.json") else others
        if others or not _is_ours_to_fill(self.partial):
            raise ConfigError(
                f"--output {folder} holds {', '.join(others) or PARTIAL}, which predict.py did not write; "
                "name another folder."
            )
        stored = _stored_config(self.folder)
        if resume and stored is not None and (changed := _changed(stored, config)):
            raise ConfigError(
                f"--resume: {folder} was made with another {changed}; leave --resume out to start anew."
            )
        self.partial.mkdir(parents=True, exist_ok=True)
        write_json(self.partial / OWNER, {"made_by": MARKER})
        remove_leftovers(*(self.folder / name for name in ("config.json", *WRITTEN)))
        for name in FOLDERS:
            remove_leftovers_in(self.folder / name)
        self.baseline = self.folder / FILE  # of the first photographs, which later ones are compared with
        if not resume:
            self.baseline.unlink(missing_ok=True)
            self._set_aside()
        goes_on = resume and stored is not None
        where = self.folder if goes_on and not (self.partial / "config.json").exists() else self.partial
        write_json(where / "config.json", {"made_by": MARKER, **as_stored(config)})
        self._began = False
        self._take_up(goes_on)
        self.list = self.partial / LIST
        self._earlier = RowIndex([self.partial, *_ranks(self.partial)], keep_maps)
        self._journal = Journal(self.partial, keep_maps)

    def close(self) -> None:
        """Brings all rows to the disk and closes the journal."""
        self._journal.close()

    def marked(self, items: Iterable[Listed], masks: MaskFolders | None) -> Iterator[Listed]:
        """The items, of which those are `done` whose photograph, with its mask of `masks`, an earlier run has
        scored."""
        for item in items:
            done = item.path is not None and self._earlier.holds(item.name, item.path, masks)
            yield item._replace(done=done)

    def keep_done(self) -> None:
        """Leaves all rows out, with a warning, but those of `done` photographs of the list."""
        dropped = self._earlier.others()
        if dropped or _ranks(self.partial):
            self._join(self._earlier)
            self._take_joined()
        warn([f"{name}: its row is left out, for the file has changed or is gone" for name in dropped])
        if len(self._earlier):
            logger.info("--resume: %d photograph(s) are done already", len(self._earlier))

    def join_ranks(self) -> None:
        """Takes over the rows of all processes, in the order of the list; DataError, and they stay, where a
        photograph has neither a row nor a reason why it has none."""
        ranks = _ranks(self.partial)
        index = RowIndex([self.partial, *ranks], self.keep_maps, confirmed=True)
        skipped = dict(entry for place in ranks for entry in _lines(place / SKIPPED))
        if lost := sum(name not in skipped for name in self._join(index)):
            raise DataError(
                f"{self.folder}: {lost} photograph(s) have no row, for a file of a process is missing or "
                "damaged; give the same command with --resume."
            )
        self._take_joined()
        for name, reason in skipped.items():
            self.skip(name, reason)
        if any(self.rows()):
            self.give_way()

    def _join(self, index: RowIndex) -> list[str]:
        """Copies the rows that the index takes to a new journal, in the order of the list; returns the names
        of photographs without one."""
        shutil.rmtree(self.partial / JOINED, ignore_errors=True)
        with (
            open(self.list, "rb") as file,
            contextlib.closing(Journal(self.partial / JOINED, self.keep_maps)) as joined,
        ):
            return list(index.copy((item.name for item in read_list(file) if item.path is not None), joined))

    def _take_joined(self) -> None:
        """Puts the new journal in the place of all others. An interruption meanwhile loses only rows: a map
        belongs to its row by its digest."""
        self.close()
        for file in (*map_files(self.partial / JOINED), self.partial / JOINED / ROWS):
            if file.exists():
                os.replace(file, self.partial / file.name)
        for place in _ranks(self.partial):
            for file in (place / ROWS, place / SKIPPED, *map_files(place)):
                file.unlink(missing_ok=True)
        self._journal = Journal(self.partial, self.keep_maps)

    def give_way(self) -> None:
        """Removes an earlier run's results before this one's first row: its numbers would not fit the new
        pictures.

        Only pictures that its rows name are removed: other files there belong to the user.
        """
        waiting = self.partial / "config.json"
        if self._began or not waiting.exists():
            return
        for journal in (self.folder / "scores.jsonl", self.partial / EARLIER):
            self._remove_pictures(journal)
        for name in FOLDERS:
            with contextlib.suppress(OSError):
                (self.folder / name).rmdir()
        for name in WRITTEN:
            (self.folder / name).unlink(missing_ok=True)
        os.replace(waiting, self.folder / "config.json")
        self._began = True

    def _remove_pictures(self, journal: Path) -> None:
        with contextlib.suppress(OSError), open(journal, "rb") as lines:
            for row in filter(None, map(parsed, lines)):
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

    def add(self, row: dict[str, Any], base: np.ndarray, window: np.ndarray | None) -> None:
        """Appends one photograph's row (JSON values, `image` first) and its maps (G,G)."""
        self.give_way()
        self._journal.add(row, base, window)

    def skip(self, name: str, reason: str) -> None:
        """Appends a file that could not be scored."""
        self._journal.skip(name, reason)

    def rows(self) -> Iterator[dict]:
        """The rows so far."""
        return _lines(self.partial / ROWS)

    def finish(self, grid: int, fused: Any = None) -> Totals:
        """Writes scores.csv, scores.jsonl, skipped.csv and maps.npz from the journal, and removes it.

        `fused(base, window)` makes the fused maps of maps.npz, G = `grid`. Where nothing was scored, an
        earlier run's results stay; without such a run only skipped.csv is written.
        """
        self.close()
        skipped = sorted(_lines(self.partial / SKIPPED))
        totals = self._count(skipped)
        totals.keeps_earlier = not totals.scored and any((self.folder / name).exists() for name in WRITTEN)
        if totals.keeps_earlier:
            shutil.rmtree(self.partial, ignore_errors=True)
            return totals
        self.give_way()
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
            os.replace(self.partial / ROWS, self.folder / "scores.jsonl")
        shutil.rmtree(self.partial, ignore_errors=True)
        return totals

    def _place_pictures(self) -> None:
        """Moves the pictures and masks of the processes to the output folder."""
        for source in (place / name for place in _ranks(self.partial) for name in FOLDERS):
            with contextlib.suppress(FileNotFoundError), os.scandir(source) as pictures:
                for picture in pictures:
                    (self.folder / source.name).mkdir(exist_ok=True)
                    os.replace(picture.path, self.folder / source.name / picture.name)

    def _take_up(self, resume: bool) -> None:
        """Prepares the journal: the rows of a finished run that is resumed, else none but those that an
        interrupted one has left there."""
        rows = self.partial / ROWS
        if resume and not rows.exists() and (self.folder / "scores.jsonl").exists():
            if self.keep_maps:
                self._unpack_maps()
            shutil.copyfile(self.folder / "scores.jsonl", rows)
        elif not resume:
            for file in (rows, *map_files(self.partial)):
                file.unlink(missing_ok=True)

    def _unpack_maps(self) -> None:
        if not (self.folder / "maps.npz").exists():
            raise ConfigError(
                f"--resume --save-maps: {self.folder} has scores but no maps.npz; leave --resume out."
            )
        maps = load_maps(self.folder / "maps.npz").maps
        for file, values in zip(map_files(self.partial), (maps.base, maps.window)):
            if values is not None:
                values.astype(np.float32).tofile(file)

    def _count(self, skipped: Sequence[tuple[str, str]]) -> Totals:
        totals, scores = (
            Totals(skipped=len(skipped), first_skipped=list(skipped[:LISTED_SKIPPED])),
            array("d"),
        )
        with open(self.partial / ROWS, "rb") as lines:
            count = sum(1 for _ in lines)
        sampled = set(random.Random(0).sample(range(count), SAMPLE)) if count > RANKED else set()

        def counted() -> Iterator[tuple[float, int, dict]]:
            for number, row in enumerate(self.rows()):
                scores.append(row["score"])
                totals.anomalous += bool(row["anomalous"])
                totals.filled |= filled_columns(row)
                if row["reason"]:
                    totals.reasoned.append(row["score"])
                if number in sampled:
                    totals.sample.append(row)
                yield row["score"], -number, row

        totals.top = [row for *_, row in heapq.nlargest(RANKED, counted(), key=lambda item: item[:2])]
        totals.scored, totals.scores = count, np.array(scores, np.float64)
        return totals

    def _save_maps(self, count: int, grid: int, fused: Any) -> None:
        rows = list(self.rows())

        def maps_of(file: Path) -> np.ndarray | None:
            empty = file.stat().st_size == 0
            return None if empty else np.memmap(file, np.float32, "r", shape=(count, grid, grid))

        def scores_of(name: str) -> np.ndarray:
            return np.array([row[name] for row in rows], np.float32)

        base, window = map(maps_of, map_files(self.partial))
        window_score = None if window is None else scores_of("window_score")
        maps = ScoreMaps(base, scores_of("base_score"), window, window_score)
        run = RunMaps([row["image"] for row in rows], maps)
        save_maps(self.folder / "maps.npz", run, fused(base, window), scores_of("score"))


def _is_ours(config: Path) -> bool:
    """Whether predict.py wrote a JSON file."""
    stored = read_json(config)
    return isinstance(stored, dict) and stored.get("made_by") == MARKER


def _is_ours_to_fill(partial: Path) -> bool:
    """Whether predict.py may write to a folder: it is missing, empty, or predict.py's own."""
    if not os.path.lexists(partial):
        return True
    if not partial.is_dir() or partial.is_symlink():
        return False
    entries = [entry for entry in os.listdir(partial) if not LEFTOVER.fullmatch(entry)]
    return not entries or _is_ours(partial / OWNER)


def _stored_config(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; those of a run without a row yet come before an earlier run's."""
    for config in (folder / PARTIAL / "config.json", folder / "config.json"):
        if _is_ours(config):
            return read_json(config)
    return None


def _ranks(partial: Path) -> list[Path]:
    """The folders of the journals of several processes."""
    return sorted(partial.glob("rank*"))


def rank_journal(output: Path, number: int, keep_maps: bool) -> Journal:
    """The journal of one of several processes, which lays its pictures in the journal's folder."""
    return Journal(output / PARTIAL / f"rank{number}", keep_maps)


def _lines(file: Path) -> Iterator[Any]:
    with contextlib.suppress(FileNotFoundError), open(file, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _changed(stored: Mapping[str, Any], config: PredictionConfig) -> str | None:
    """The first setting of identity in which the stored config.json differs from `config`; None for none."""
    before, now = identity_of_prediction(stored), config.identity()
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return name.replace("_", " ")
    return None
