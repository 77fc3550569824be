"""Inspecting photographs in blocks, among several processes: from a list of the inputs to the output folder
that one process would leave."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.manifest import Manifest, listed
from fdsl.api import AnomalyDetector
from fdsl.inspection import MOST_SAID, finish, score_items
from fdsl.known_photographs import KnownPhotographs
from fdsl.reading import Reading
from fdsl.run_config import PredictionConfig
from fdsl.store.blocks import Blocks
from fdsl.store.prediction_folder import PredictionFolder, Totals
from utils.errors import ConfigError
from utils.lock import locked_for
from utils.log import only_from
from utils.signals import how_to_continue
from utils.world import World

logger = logging.getLogger("fdsl")
ELSEWHERE = "name another folder with --output"
PARTIAL = ".partial"


@dataclass(frozen=True)
class Inspection:
    """What is inspected, and how. `references`: files that are warned of among the inputs; `pictures`: "all",
    "anomalous" or "none"."""

    output: Path
    inputs: Sequence[str]
    config: PredictionConfig
    references: Sequence[str]
    pictures: str
    keep_maps: bool
    reading: Reading

    @property
    def partial(self) -> Path:
        return self.output / PARTIAL

    def folder(self, resume: bool) -> PredictionFolder:
        return PredictionFolder(self.output, self.config, resume, self.keep_maps, in_blocks=True)


def is_in_blocks(output: Path) -> bool:
    """Whether a run that was interrupted in this folder goes on block by block."""
    return Manifest.is_in(output / PARTIAL)


def inspect_together(
    detector: AnomalyDetector, wanted: Inspection, world: World, resume: bool
) -> Totals | None:
    """Scores this process's blocks; the totals where it is the one that joins them all, else None."""
    with locked_for(world, wanted.output, ELSEWHERE):
        if world.is_first:
            world.agree(lambda: _begin(wanted, resume))
        else:
            world.agree(lambda: None)
        blocks = Blocks(Manifest.read(wanted.partial), wanted.keep_maps)
        _score_own(detector, wanted, blocks, world)
        world.wait()
        return _join(detector, wanted, blocks) if world.is_first else None


def _begin(wanted: Inspection, resume: bool) -> None:
    """The output folder with its list of photographs; with `resume` those of an earlier run."""
    begun = resume and Manifest.is_in(wanted.partial)
    wanted.folder(resume).close()
    if begun and Manifest.read(wanted.partial).inputs != list(map(str, wanted.inputs)):
        raise ConfigError(
            f"--resume: the run in {wanted.output} was begun with other --input; give the same, or leave "
            "--resume out to start anew."
        )
    if not begun:
        items = listed(wanted.inputs, [wanted.output])
        Manifest.write(wanted.partial, items, wanted.inputs, wanted.reading.batch_size)
    how_to_continue("the same command with --resume goes on after the blocks that are done")


def _score_own(detector: AnomalyDetector, wanted: Inspection, blocks: Blocks, world: World) -> None:
    """Every N-th block, from this process's number on."""
    if world.joined:
        only_from(logging.INFO if world.is_first else logging.WARNING)
    known = KnownPhotographs(detector, wanted.references)
    for number in range(world.rank, len(blocks.manifest), world.size):
        if not blocks.holds(number):
            _score(detector, wanted, blocks, number, known)


def _score(
    detector: AnomalyDetector, wanted: Inspection, blocks: Blocks, number: int, known: KnownPhotographs
) -> None:
    with blocks.writing(number) as block:
        what = f"block {number + 1} of {len(blocks.manifest)}"
        items = list(blocks.manifest.block(number))
        count = sum(item.path is not None for item in items)
        how = (wanted.pictures, wanted.reading, what, block.note, known)
        for _ in score_items(detector, items, count, block, *how):
            pass  # the block keeps the rows


def _join(detector: AnomalyDetector, wanted: Inspection, blocks: Blocks) -> Totals:
    """The files of one process, from all blocks."""
    folder = wanted.folder(resume=True)
    for number in range(len(blocks.manifest)):
        if not blocks.is_whole(number):
            logger.warning("warning: block %d is missing or damaged: it is computed again", number + 1)
            blocks.throw_away(number)
            _score(detector, wanted, blocks, number, KnownPhotographs(detector, wanted.references))
    for sentence in blocks.notes(MOST_SAID):
        logger.warning("warning: %s", sentence)
    folder.take(blocks)
    return finish(detector, folder)
