"""The output folder of a prediction run: first a journal that grows photograph by photograph, then the
results.

The journal lies in OUTPUT/.partial: rows.jsonl, one line per photograph, and its maps as raw float32. An
interrupted run goes on from it.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import logging
import os
import random
import shutil
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fdsl.config.run_config import PredictionConfig, identity_of_prediction
from fdsl.store.blocks import FOLDERS, Blocks
from fdsl.store.journal import ROWS, SKIPPED, Journal
from fdsl.store.maps import RunMaps, load_maps, save_maps
from fdsl.store.resume_index import PARTS, ResumeIndex, files_of, parsed
from models.features import ScoreMaps
from utils.drift import FILE
from utils.errors import ConfigError
from utils.files import (
    LEFTOVER,
    Stamp,
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
    `keep_maps`. ConfigError for a folder where files of others would be overwritten. `in_blocks`: it is
    filled from finished blocks (`take`) only. `done`: the photographs that an earlier run has scored.
    """

    def __init__(
        self,
        folder: Path,
        config: PredictionConfig,
        resume: bool = False,
        keep_maps: bool = False,
        in_blocks: bool = False,
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
        self.done = self._take_up(goes_on and not in_blocks)
        self._open_journal()

    @staticmethod
    def state_of(folder: Path) -> str:
        """The state of predict.py's run in a folder: new, begun or finished."""
        if _stored_config(folder) is None:
            return "new"
        if _is_ours(folder / PARTIAL / OWNER):
            return "begun"
        return "finished" if (folder / "scores.jsonl").is_file() else "new"

    def _open_journal(self) -> None:
        self._journal = Journal(self.partial, self.keep_maps)

    def close(self) -> None:
        """Brings all rows to the disk and closes the journal."""
        self._journal.close()

    def take(self, blocks: Blocks) -> None:
        """Takes over the rows, maps, pictures and masks of all blocks, in their order."""
        if blocks.join(self._journal):
            self.give_way()
        blocks.place_pictures(self.folder)

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
                for file in files_of(row):
                    (self.folder / file).unlink(missing_ok=True)

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

    def drop_others(self) -> int:
        """Removes, with a warning, the rows of an earlier run whose photographs `done.holds` has not
        confirmed; returns the number of the others."""
        dropped = self.done.drop_others()
        if dropped:
            self.close()
            self._open_journal()
        warn([f"{name}: its row is left out, for the file has changed or is gone" for name in dropped])
        if self.done:
            logger.info("--resume: %d photograph(s) are done already", len(self.done))
        return len(self.done)

    def add(self, row: dict[str, Any], base: np.ndarray, window: np.ndarray | None) -> None:
        """Appends one photograph's row (JSON values, `image` first) and its maps (G,G)."""
        self.give_way()
        self._journal.add(row, base, window)

    def skip(self, name: str, reason: str, stamp: Stamp | None = None) -> None:
        """Appends a file that could not be scored."""
        self._journal.skip(name, reason, stamp)

    def finish(self, grid: int, fused: Any = None) -> Totals:
        """Writes scores.csv, scores.jsonl, skipped.csv and maps.npz from the journal, and removes it.

        `fused(base, window)` makes the fused maps of maps.npz, G = `grid`. Where nothing was scored, an
        earlier run's results stay; without such a run only skipped.csv is written.
        """
        self.close()
        totals = self._count()
        totals.keeps_earlier = not totals.scored and any((self.folder / name).exists() for name in WRITTEN)
        if totals.keeps_earlier:
            shutil.rmtree(self.partial, ignore_errors=True)
            return totals
        self.give_way()
        (self.folder / "skipped.csv").unlink(missing_ok=True)
        if totals.skipped:
            with whole_file(self.folder / "skipped.csv") as out:
                skipped = ((as_cell(name), reason) for name, reason, _ in _lines(self.partial / SKIPPED))
                write_csv(out, ("image", "reason"), skipped)
        if totals.scored:
            if self.keep_maps:
                self._save_maps(totals.scored, grid, fused)
            with whole_file(self.folder / "scores.csv") as out:
                write_scores(out, self._read(), totals.filled)
            os.replace(self.partial / ROWS, self.folder / "scores.jsonl")
        shutil.rmtree(self.partial, ignore_errors=True)
        return totals

    def _take_up(self, resume: bool) -> ResumeIndex:
        """The complete rows of an earlier run; none unless it is to be resumed."""
        rows = self.partial / ROWS
        if resume and not rows.exists() and (self.folder / "scores.jsonl").exists():
            if self.keep_maps:
                self._unpack_maps()
            shutil.copyfile(self.folder / "scores.jsonl", rows)
        elif not resume:
            for file in (rows, *(self.partial / f"{part}.f32" for part in PARTS)):
                file.unlink(missing_ok=True)
        return ResumeIndex(self.partial, self.keep_maps)

    def _unpack_maps(self) -> None:
        if not (self.folder / "maps.npz").exists():
            raise ConfigError(
                f"--resume --save-maps: {self.folder} has scores but no maps.npz; leave --resume out."
            )
        maps = load_maps(self.folder / "maps.npz").maps
        for part in ("base", "window"):
            if getattr(maps, part) is not None:
                getattr(maps, part).astype(np.float32).tofile(self.partial / f"{part}.f32")

    def _read(self) -> Iterator[dict]:
        return _lines(self.partial / ROWS)

    def _count(self) -> Totals:
        totals, scores = Totals(), array("d")
        with open(self.partial / ROWS, "rb") as lines:
            count = sum(1 for _ in lines)
        sampled = set(random.Random(0).sample(range(count), SAMPLE)) if count > RANKED else set()

        def counted() -> Iterator[tuple[float, int, dict]]:
            for number, row in enumerate(self._read()):
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
        for name, reason, _ in _lines(self.partial / SKIPPED):
            totals.skipped += 1
            if totals.skipped <= LISTED_SKIPPED:
                totals.first_skipped.append((name, reason))
        return totals

    def _save_maps(self, count: int, grid: int, fused: Any) -> None:
        rows = list(self._read())

        def maps_of(part: str) -> np.ndarray | None:
            file = self.partial / f"{part}.f32"
            empty = file.stat().st_size == 0
            return None if empty else np.memmap(file, np.float32, "r", shape=(count, grid, grid))

        def scores_of(name: str) -> np.ndarray:
            return np.array([row[name] for row in rows], np.float32)

        base, window = maps_of("base"), maps_of("window")
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


def _lines(file: Path) -> Iterator[Any]:
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _changed(stored: Mapping[str, Any], config: PredictionConfig) -> str | None:
    """The first setting of identity in which the stored config.json differs from `config`; None for none."""
    before, now = identity_of_prediction(stored), config.identity()
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return name.replace("_", " ")
    return None
