"""Several processes score photographs in turns, batch by batch: from a list of the inputs to the same output
folder as of one process."""

from __future__ import annotations

import logging
from contextlib import closing, nullcontext
from pathlib import Path

from data.inputs import find_images
from data.manifest import read_list, share_of
from fdsl.api import AnomalyDetector
from fdsl.inspection.score_files import Inspection, Watch, finish, score_items
from fdsl.store.prediction_folder import LIST, PARTIAL, PredictionFolder, rank_journal
from fdsl.store.totals import Totals
from utils.drift import Drift
from utils.errors import ConfigError
from utils.lock import locked
from utils.log import only_from
from utils.world import World

LOCK_CURE = "name another folder with --output"


def inspect_together(detector: AnomalyDetector, wanted: Inspection, world: World) -> Totals | None:
    """Scores this process's share; returns the totals in the first process, which joins all rows, else
    None."""
    output = meeting_place(wanted.output)
    with locked(output / ".lock", str(output), LOCK_CURE) if world.is_first else nullcontext():
        folder = world.agree(lambda: _begin(detector, wanted, output) if world.is_first else None)
        _score_own(detector, wanted, output, world)
        world.wait()
        return None if folder is None else _join(detector, wanted, folder)


def meeting_place(output: Path | None) -> Path:
    """The folder that several processes share; ConfigError without one."""
    if output is None:
        raise ConfigError("Several processes need a common folder: name it with --output DIR.")
    return output


def _begin(detector: AnomalyDetector, wanted: Inspection, output: Path) -> PredictionFolder:
    """Prepares the output folder and the list of photographs; with `resume` those are marked that are
    done."""
    folder = PredictionFolder(output, wanted.config_of(detector), wanted.resume)
    folder.take_inputs(find_images(wanted.inputs, [output]), detector.reader.masks)
    return folder


def _score_own(detector: AnomalyDetector, wanted: Inspection, output: Path, world: World) -> None:
    """Scores this process's share of the list; the rows go to its own journal."""
    only_from(logging.INFO if world.is_first else logging.WARNING)
    watch = Watch(detector, wanted.references)
    items, turn = output / PARTIAL / LIST, (wanted.reading.batch_size, world.rank, world.size)
    with closing(rank_journal(output, world.rank, wanted.keep_maps)) as journal:
        count = sum(1 for _ in share_of(read_list(items), *turn))
        own = share_of(read_list(items), *turn)
        for _ in score_items(detector, wanted, own, count, journal, watch):
            pass


def _join(detector: AnomalyDetector, wanted: Inspection, folder: PredictionFolder) -> Totals:
    """Writes the results of all processes to the output folder."""
    folder.join_ranks()
    watch = Watch(detector, drift=Drift(detector.references.statistics))
    for row in folder.rows():
        watch.follow(row)
    return finish(detector, folder, wanted.coco)
