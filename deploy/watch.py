"""Inspects the photographs of a folder as they come to rest there, also over a network: the folder is listed
again and again, for network drives report no changes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.images import open_image
from data.inputs import find_images
from deploy.detector_flags import facts_of
from deploy.graph import Graph
from deploy.pillow_pictures import add_picture
from deploy.row_journal import Journal, key
from utils import signals
from utils.console import put_json, warn
from utils.drift import Drift
from utils.errors import DataError
from utils.files import content_digest
from utils.score_rows import row_of
from utils.text import natural_key, printable

logger = logging.getLogger("fdsl")
PAUSE = 0.5  # seconds between two listings of the folder,
SHARE = 4  # and at least so many times what the last listing took
PATIENCE = 30.0  # seconds that a file at rest may stay unreadable: a copy over a network may stand still
Clock = Callable[[], float]


@dataclass
class Waiting:
    """A file that is not at rest, or could not be read yet: its size and time of change (ns), and since when
    it has had them. not_before: when it is read again."""

    size: int
    modified: int
    since: float
    not_before: float = 0.0


@dataclass(frozen=True)
class Arrived:
    """A file at rest: its name, as predict.py names it, its size and time of change (ns), and whether it has
    been at rest for so long that nobody writes it any more."""

    name: str
    path: Path
    size: int
    modified: int
    final: bool

    @property
    def key(self) -> int:
        return key(self.name, self.size, self.modified)


class Arrivals:
    """The photographs below a folder that are not `done` (their keys), as they come to rest.

    A file is at rest when its size and time have not changed for `settle` seconds, and it holds something. A
    file that is written anew under its name is another photograph. `left_out`: folders that are not entered.
    `problem` is called with files of kinds that are not read, by name and reason, at each listing.
    """

    def __init__(
        self,
        folder: Path,
        done: set[int],
        settle: float,
        left_out: Sequence[Path] = (),
        problem: Callable[[str, str], None] = lambda name, reason: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.folder, self.done, self.settle = folder, done, settle
        self._left_out, self._problem, self._clock = left_out, problem, clock
        self._waiting: dict[str, Waiting] = {}

    @property
    def waiting(self) -> int:
        """How many files were not at rest at the last listing."""
        return len(self._waiting)

    def at_rest(self) -> list[Arrived]:
        """The files at rest, by their time of change. DataError where the folder is not there."""
        now, at_rest, seen = self._clock(), [], set()
        for name, path, reason, _ in find_images([str(self.folder)], self._left_out):
            if path is None:
                self._problem(name, reason)
                continue
            try:
                facts = os.stat(path)
            except OSError:
                continue  # it went away meanwhile
            if key(name, facts.st_size, facts.st_mtime_ns) in self.done:
                continue
            seen.add(name)
            waiting = self._waiting.get(name)
            if waiting is None or (waiting.size, waiting.modified) != (facts.st_size, facts.st_mtime_ns):
                waiting = self._waiting[name] = Waiting(facts.st_size, facts.st_mtime_ns, now)
            quiet = now - waiting.since
            final = quiet >= max(PATIENCE, self.settle)
            is_quiet = quiet >= self.settle and waiting.size > 0 and now >= waiting.not_before
            if is_quiet or final:
                at_rest.append(Arrived(name, path, waiting.size, waiting.modified, final))
        for name in self._waiting.keys() - seen:
            del self._waiting[name]
        return sorted(at_rest, key=lambda one: (one.modified, natural_key(one.name)))

    def finish(self, one: Arrived) -> None:
        """A photograph has its row, or is given up."""
        self.done.add(one.key)
        self._waiting.pop(one.name, None)

    def postpone(self, one: Arrived) -> None:
        """A file at rest cannot be read yet: it is tried again after as long as it has been at rest."""
        waiting = self._waiting[one.name]
        now = self._clock()
        waiting.not_before = now + max(1.0, now - waiting.since)

    def is_unchanged(self, one: Arrived) -> bool:
        """Whether a file is still what it was when it came to rest."""
        try:
            facts = os.stat(one.path)
        except OSError:
            return False
        return (facts.st_size, facts.st_mtime_ns) == (one.size, one.modified)


def arriving(arrivals: Arrivals, stop_after: float | None, asked: threading.Event) -> Iterator[Arrived]:
    """The files at rest, listing after listing. Ends after `stop_after` seconds without anything new or
    waiting (None: never), and once it is `asked` to. A folder that is gone is reported once and waited
    for."""
    quiet_since, is_gone = time.monotonic(), False
    while not asked.is_set():
        begun = time.monotonic()
        arrived: list[Arrived] = []
        try:
            arrived = arrivals.at_rest()
            is_gone = False
        except DataError as error:
            if not is_gone:
                warn([f"{error}; it is waited for"])
            is_gone = True
        took = time.monotonic() - begun
        for one in arrived:
            if asked.is_set():
                return
            yield one
        if arrived or arrivals.waiting:
            quiet_since = time.monotonic()
        elif stop_after is not None and time.monotonic() - quiet_since >= stop_after:
            return
        asked.wait(max(PAUSE, SHARE * took))


def watch(
    graph: Graph,
    folder: Path,
    settle: float,
    stop_after: float | None,
    output: Path,
    pictures: str,
    as_json: bool,
) -> int:
    """Scores each photograph as it comes to rest in a folder, until Ctrl-C or SIGTERM; returns how many are
    anomalous. `settle`, `stop_after`: see `Arrivals` and `arriving`; `pictures`: see `add_picture`."""
    signals.how_to_continue("the same command goes on after the photographs that are done")
    journal, asked = Journal(output, {**facts_of(graph), "watch": str(folder)}), threading.Event()
    before, anomalous = journal.count, 0
    if before:
        logger.info("%d photograph(s) are done already", before)
    else:
        logger.info("waiting for photographs in %s; Ctrl-C ends it", folder)
    with signals.gently(asked, signals.WITH_SCORED):
        for row in Watch(graph, folder, settle, journal, pictures).rows(stop_after, asked):
            anomalous += bool(row["anomalous"])
            as_json = as_json and put_json(row)
    journal.close()
    logger.info("%d photograph(s) scored, %d anomalous", journal.count - before, anomalous)
    return anomalous


class Watch:
    """The photographs that come to rest in a folder, and the journal of their rows, which may hold those of
    earlier runs."""

    def __init__(self, graph: Graph, folder: Path, settle: float, journal: Journal, pictures: str) -> None:
        self.graph, self.journal, self.pictures = graph, journal, pictures
        self.arrivals = Arrivals(folder, journal.done, settle, [journal.folder], journal.skip)
        self.drift = Drift(graph.statistics, earlier=journal.rows())

    def rows(self, stop_after: float | None, asked: threading.Event) -> Iterator[dict[str, Any]]:
        """The rows of photographs as they come; each is in the journal before it is given."""
        for one in arriving(self.arrivals, stop_after, asked):
            row = self._row_of(one)
            if row is not None:
                yield row

    def _row_of(self, one: Arrived) -> dict[str, Any] | None:
        """None for a photograph that has no row, or not yet."""
        graph = self.graph
        try:
            photo, digest = open_image(one.path, graph.grey), content_digest(one.path)
            if not self.arrivals.is_unchanged(one):
                return None  # somebody writes it again
            result = graph.predict(photo, one.name)
        except (DataError, OSError) as error:
            if one.final:
                self._skip(one, str(error).removeprefix(f"{printable(one.path)}: "))
            else:
                self.arrivals.postpone(one)
            return None
        row = row_of(one.name, result)
        row["file"] = {"bytes": one.size, "modified": one.modified, "digest": digest}
        add_picture(row, self.journal.folder, graph, photo, result, self.pictures, digest)
        self.journal.add(row)
        self.arrivals.finish(one)
        warn(self.drift.follow(row))
        return row

    def _skip(self, one: Arrived, reason: str) -> None:
        logger.warning("skipped %s: %s", one.name, reason)
        self.journal.skip(one.name, reason)
        self.arrivals.finish(one)
