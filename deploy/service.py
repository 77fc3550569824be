"""A detector that answers several at once: who waits, what is answered, and the counts of both."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from data.images import open_image
from deploy.graph import Graph
from deploy.pillow_pictures import draw, encoded
from deploy.row_journal import Journal
from utils.console import warn
from utils.drift import Drift
from utils.errors import ConfigError, DataError
from utils.score_rows import row_of
from utils.sources import held_in_memory
from utils.text import printable

logger = logging.getLogger("fdsl")
COUNTED = ("inspected", "anomalous", "refused", "busy")


class Refusal(Exception):
    """An answer other than 200: its status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Service:
    """A detector, one photograph at a time; others wait, `queue` in all. `journal` stores the rows; None:
    nobody does.

    One thread scores all photographs: an allocator keeps what each thread has freed for that thread, and
    every connection is one. ending: set where it takes no more photographs. inside: photographs in work or
    waiting.
    """

    def __init__(self, graph: Graph, queue: int, journal: Journal | None = None) -> None:
        self.graph, self.queue, self.journal = graph, queue, journal
        self.drift = Drift(graph.statistics, earlier=() if journal is None else journal.rows())
        self.ending, self.inside = threading.Event(), 0
        self._counts, self._counting = Counter[str](), threading.Lock()
        self._one_by_one = ThreadPoolExecutor(1, "photographs")
        self._begun = time.monotonic()

    def count(self, what: str) -> None:
        """Counts an answer as one of COUNTED."""
        with self._counting:
            self._counts[what] += 1

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among those that wait; Refusal (503) where all are taken, or it ends."""
        with self._counting:
            has_place = self.inside < self.queue
            self.inside += has_place
            self._counts["busy"] += not has_place
        if not has_place:
            raise Refusal(503, f"{self.queue} photographs are in work or wait already; try again in a second")
        try:
            if self.ending.is_set():
                raise Refusal(503, "it is ending; try again when it has started anew")
            yield
        finally:
            with self._counting:
                self.inside -= 1

    def inspect(self, content: bytes, name: str, with_map: bool) -> tuple[dict[str, Any], bytes]:
        """A photograph's file -> its row and, `with_map`, its heat map as a PNG file. DataError for what is
        no photograph, ConfigError where the row cannot be written."""
        return self._one_by_one.submit(self._inspect, content, name, with_map).result()

    def _inspect(self, content: bytes, name: str, with_map: bool) -> tuple[dict[str, Any], bytes]:
        graph, picture = self.graph, b""
        with held_in_memory([("photograph", content)]) as (file,):
            try:
                photo = open_image(file, graph.grey)
            except DataError as error:
                raise DataError(str(error).removeprefix(f"{printable(file)}: ")) from error
        result = graph.predict(photo, name)
        row = row_of(name, result)
        warn(self.drift.follow(row))
        if self.journal is not None:
            try:
                self.journal.add(row)
            except OSError as error:
                logger.error("error: %s: %s", self.journal.folder, error.strerror)
                raise ConfigError(f"the row could not be written ({error.strerror})") from error
        if with_map:
            picture = encoded(draw(photo, result, graph.heat_scale, graph.pixel_threshold), "PNG")
        self.count("inspected")
        if result.is_anomalous:
            self.count("anomalous")
        return row, picture

    def health(self) -> dict[str, Any]:
        """What GET /health answers."""
        with self._counting:
            counts = {name: self._counts[name] for name in COUNTED}
        return {
            "status": "ok",
            "detector": self.graph.file.name,
            "threshold": self.graph.threshold,
            "seconds": round(time.monotonic() - self._begun, 1),
            "waiting": self.inside,
            "queue": self.queue,
            "drift": sorted(self.drift.changes),
            **counts,
        }
