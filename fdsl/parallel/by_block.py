"""Several processes score photographs in blocks: from a list of the inputs to the same output folder as of
one process."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from data.manifest import Manifest, listed
from fdsl.api import AnomalyDetector
from fdsl.inspection.known_photographs import KnownPhotographs
from fdsl.inspection.score_files import MOST_SAID, Inspection, Made, finish, score_items
from fdsl.store.blocks import Blocks
from fdsl.store.prediction_folder import PARTIAL, PredictionFolder, Totals
from utils.drift import Drift
from utils.errors import ConfigError
from utils.lock import locked
from utils.log import only_from
from utils.signals import how_to_continue
from utils.world import World

logger = logging.getLogger("fdsl")
LOCK_CURE = "name another folder with --output"


def goes_in_blocks(wanted: Inspection, world: World) -> bool:
    """Whether the photographs are scored block by block: by several processes, unless they resume a run of
    one, or where such a run is resumed."""
    if wanted.output is None:
        return False
    begun = wanted.resume and PredictionFolder.state_of(wanted.output) != "new"
    in_blocks = wanted.resume and Manifest.is_in(wanted.output / PARTIAL)
    if world.joined and begun and not in_blocks:
        logger.info("%s is the run of one process: one goes on with it", wanted.output)
        return False
    return world.joined or in_blocks


def inspect_together(detector: AnomalyDetector, wanted: Inspection, world: World) -> Totals | None:
    """Scores this process's blocks; returns the totals in the first process, which joins all blocks, else
    None."""
    output = meeting_place(wanted.output)
    with locked(output / ".lock", str(output), LOCK_CURE) if world.is_first else nullcontext():
        world.agree(lambda: _begin(detector, wanted) if world.is_first else None)
        blocks = Blocks(Manifest.read(output / PARTIAL), wanted.keep_maps)
        _score_own(detector, wanted, blocks, world)
        world.wait()
        return _join(detector, wanted, blocks) if world.is_first else None


def meeting_place(output: Path | None) -> Path:
    """The folder that several processes share; ConfigError without one."""
    if output is None:
        raise ConfigError("Several processes need a common folder: name it with --output DIR.")
    return output


def _begin(detector: AnomalyDetector, wanted: Inspection) -> None:
    """Prepares the output folder and its list of photographs; with `resume` those of an earlier run."""
    output = meeting_place(wanted.output)
    partial = output / PARTIAL
    begun = wanted.resume and Manifest.is_in(partial)
    _open(detector, wanted, wanted.resume).close()
    if begun and Manifest.read(partial).inputs != list(map(str, wanted.inputs)):
        raise ConfigError(
            f"--resume: the run in {output} was begun with other --input; give the same, or leave "
            "--resume out to start anew."
        )
    if not begun:
        items = listed(wanted.inputs, [output])
        Manifest.write(partial, items, wanted.inputs, wanted.reading.batch_size)
    how_to_continue("the same command with --resume goes on after the blocks that are done")


def _open(detector: AnomalyDetector, wanted: Inspection, resume: bool) -> PredictionFolder:
    config = wanted.config_of(detector)
    return PredictionFolder(meeting_place(wanted.output), config, resume, wanted.keep_maps, in_blocks=True)


def _score_own(detector: AnomalyDetector, wanted: Inspection, blocks: Blocks, world: World) -> None:
    """Scores every N-th block, from this process's rank on."""
    if world.joined:
        only_from(logging.INFO if world.is_first else logging.WARNING)
    known = KnownPhotographs(detector, wanted.references)
    for number in range(world.rank, len(blocks.manifest), world.size):
        if not blocks.holds(number, detector.masks):
            _score(detector, wanted, blocks, number, known)


def _score(
    detector: AnomalyDetector, wanted: Inspection, blocks: Blocks, number: int, known: KnownPhotographs
) -> None:
    with blocks.writing(number) as block:
        what = f"block {number + 1} of {len(blocks.manifest)}"
        items = list(blocks.manifest.block(number))
        count = sum(item.path is not None for item in items)
        made = Made(wanted.pictures, wanted.masks)
        how = (made, wanted.reading, what, block.note, known, block.follow)
        for _ in score_items(detector, items, count, block, *how):
            pass  # the block stores the rows


def _join(detector: AnomalyDetector, wanted: Inspection, blocks: Blocks) -> Totals:
    """Writes the results of all blocks to the output folder."""
    folder = _open(detector, wanted, resume=True)
    for number in range(len(blocks.manifest)):
        if not blocks.is_whole(number):
            logger.warning("warning: block %d is missing or damaged: it is computed again", number + 1)
            blocks.remove(number)
            _score(detector, wanted, blocks, number, KnownPhotographs(detector, wanted.references))
    folder.take(blocks)
    folder.baseline.unlink(missing_ok=True)  # all photographs are followed once more, from the first one on
    drift = Drift(detector.statistics, file=folder.baseline)
    changes = [sentence for seen in blocks.seen() for sentence in drift.add(*seen)]
    for sentence in [*blocks.notes(MOST_SAID), *changes[: MOST_SAID["drift"]]]:
        logger.warning("warning: %s", sentence)
    return finish(detector, folder, wanted.coco)
