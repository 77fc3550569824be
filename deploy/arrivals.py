"""Photographs of a folder as they come to rest there, also over a network: the folder is listed again and
again, for network drives report no changes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.inputs import find_images
from deploy.journal import key
from utils.errors import DataError
from utils.log import warn
from utils.text import natural_key

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
