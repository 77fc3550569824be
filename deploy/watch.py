"""Inspects the photographs of a folder as they come, until it is asked to end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.images import open_image
from deploy.arrivals import Arrivals, Arrived, arriving
from deploy.detector_flags import facts_of
from deploy.graph import Graph
from deploy.journal import Journal
from deploy.pictures import add_picture
from utils import signals
from utils.console import put_json
from utils.drift import Drift
from utils.errors import DataError
from utils.files import content_digest
from utils.log import warn
from utils.score_rows import row_of
from utils.text import printable

logger = logging.getLogger("fdsl")


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
