"""Several test runs on one backbone: each batch of test images is encoded once for all of them.

What a run gets is byte for byte what it gets by itself. The same batches go through the same backbone, and
each run matches them against its own memory. The maps are left as the finished parts of an interrupted run
(fdsl/store/finished_parts.py), which the run itself then takes up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data.dataset import InspectionDataset, make_loader
from data.grey import doubts_of
from fdsl.detection import keys_of_parts, remember_shots
from fdsl.inspection import Reading
from fdsl.runs import RunFolder
from fdsl.scoring import NotFinite, Scorer
from fdsl.store.finished_parts import FinishedParts
from fdsl.store.maps import RunMaps
from fdsl.tested_set import TestedSet
from models.detector import Detector
from models.encoded_once import EncodedOnce
from models.features import ScoreMaps, join_score_maps
from utils.device import worker_count
from utils.log import progress, warn
from utils.memory import free_bytes
from utils.signals import how_to_continue
from utils.text import printable
from utils.tile_layout import AUTO_TILES, MOST_TILES

logger = logging.getLogger("fdsl")
GIB = 2**30


class Drawn(NamedTuple):
    """A run and the photographs that it has drawn."""

    run: RunFolder
    tested: TestedSet


@dataclass
class Waiting:
    """One run's work on one category: the key of its part, the detector, and the maps found so far."""

    drawn: Drawn
    parts: FinishedParts
    key: dict[str, Any]
    shots: InspectionDataset
    tested: InspectionDataset
    scorer: Scorer
    found: list[ScoreMaps] = field(default_factory=list)

    @property
    def same_images(self) -> tuple:
        """Works that are equal in this look at the same arrays."""
        names = tuple(record.image_path for record in self.tested.records)
        return names, self.tested.layout, self.tested.grey

    def keep(self) -> None:
        """Writes the maps as a finished part."""
        names = [record.image_path for record in self.tested.records]
        self.parts.save(self.key, RunMaps(names, join_score_maps(self.found)))
        self.found.clear()


def share_encoding(
    detector: Detector, runs: Sequence[Drawn], reading: Reading, memory_gib: float | None = None
) -> None:
    """Computes the maps that the runs' parts lack, one category after the other; `detector` is one that all
    of them could use.

    `memory_gib`: what memory banks and encoded batches may take, by default half of what is free. Banks that
    do not fit are taken in several passes over the test images; where not even one batch fits, nothing is
    done, and each run encodes for itself.
    """
    budget = int(GIB * memory_gib) if memory_gib else free_bytes(detector.backbone.device) // 2
    batch = _bytes_of_a_batch(detector, reading.batch_size)
    if detector.looks_at_inspected or batch > budget:
        if batch > budget:
            logger.info(
                "one encoded batch takes %.1f GiB, --memory gives %.1f: each run encodes for itself",
                batch / GIB,
                budget / GIB,
            )
        return
    once = EncodedOnce(detector.backbone.encode, 2 * batch)
    second = None
    if detector.second is not None:
        second = EncodedOnce(detector.second.detector.backbone.encode, 2 * batch)
    works = _works(detector, runs, reading)
    for number, (category, waiting) in enumerate(works.items(), start=1):
        what = f"{printable(category)} ({number}/{len(works)})"
        while waiting:
            taken = _remembered(waiting, max(budget - 2 * batch, 1))
            waiting = waiting[len(taken) :]
            if waiting:
                logger.info("%s: the banks of %d more runs wait for another pass", what, len(waiting))
            _go_through(taken, once, second, reading, what)
        how_to_continue(f"the same command goes on after {number} of {len(works)} categories")


def _bytes_of_a_batch(detector: Detector, batch_size: int) -> int:
    """What the tokens of so many images take at most, with their windows or tiles."""
    backbone, size = detector.backbone, detector.backbone.dtype.itemsize
    patches = detector.grid**2 * (1 + _most_tiles(detector.settings.tiles))
    if detector.windows is not None:
        patches += len(detector.windows) * detector.settings.win_size**2
    raw = 4 * bool(detector.method.want)
    return batch_size * patches * backbone.width * len(backbone.layers) * (size + raw)


def _most_tiles(tiles: int) -> int:
    """About as many tiles as a photograph that is not square has at most."""
    along = MOST_TILES if tiles == AUTO_TILES else tiles
    return 0 if tiles == 1 else 2 * along**2


def _works(detector: Detector, runs: Sequence[Drawn], reading: Reading) -> dict[str, list[Waiting]]:
    """Category -> what is still to be done on it."""
    works: dict[str, list[Waiting]] = {}
    like = Scorer(detector)
    for drawn in runs:
        run, tested = drawn
        keys = keys_of_parts(
            detector, tested.root, tested.references, tested.records, run.config.identity("maps"), tested.grey
        )
        parts = FinishedParts(run.path)
        for category, records in tested.records.items():
            if parts.load(keys[category], [record.image_path for record in records]) is not None:
                continue
            shots, images = (
                InspectionDataset(
                    tested.root,
                    part,
                    detector.image_size,
                    max_pixels=reading.max_pixels,
                    grey=tested.grey.get(category),
                )
                for part in (tested.references[category], records)
            )
            scorer = Scorer(detector.another(), like)
            works.setdefault(category, []).append(
                Waiting(drawn, parts, keys[category], shots, images, scorer)
            )
    return works


def _remembered(waiting: Sequence[Waiting], budget: int) -> list[Waiting]:
    """The first of the works whose memories fit into the budget, at least one; they have seen their
    references."""
    taken: list[Waiting] = []
    held = 0
    for work in waiting:
        if taken and held + held // len(taken) > budget:
            break
        try:
            if len(work.shots):
                remember_shots(work.scorer, work.shots, work.drawn.run.config.rotations or 1)
        except NotFinite:
            work.scorer = Scorer(work.scorer.detector.another(), work.scorer)  # its own run says it
        work.tested.layout = work.scorer.detector.layout
        held += work.scorer.detector.memory_bytes
        taken.append(work)
    return taken


def _go_through(
    works: Sequence[Waiting], once: EncodedOnce, second: EncodedOnce | None, reading: Reading, what: str
) -> None:
    """Scores the test images of one category for all works, and keeps what they found."""
    groups: dict[tuple, list[Waiting]] = {}
    for work in works:
        groups.setdefault(work.same_images, []).append(work)
    for group in groups.values():
        images = group[0].tested
        warn(
            doubts_of(
                [images.root / one.image_path for one in images.records], images.grey, images.max_pixels
            )
        )
        pin = group[0].scorer.detector.backbone.device.type == "cuda"
        loader = make_loader(images, reading.batch_size, worker_count(reading.workers), pin=pin)
        label = f"{what}, {len(group)} runs"
        going = list(group)
        for batch in progress(loader, len(images), label, lambda batch: len(batch["path"])):
            going = [work for work in going if _scored(work, batch, once, second)]
        for work in going:
            work.keep()
        for work in group:  # the next pass needs the memory
            work.scorer = Scorer(work.scorer.detector.another(), work.scorer)


def _scored(work: Waiting, batch: dict, once: EncodedOnce, second: EncodedOnce | None) -> bool:
    """Scores a batch for one work; False where a map is not finite, which its own run will say."""
    detector = work.scorer.detector
    detector.once = once
    if detector.second is not None:
        detector.second.detector.once = second
    if detector.memory is None and detector.method.needs_references:
        return False
    try:
        work.found.append(work.scorer(batch["image"], batch["path"]))
    except NotFinite:
        work.found.clear()
        return False
    return True


def unfinished(runs: Iterable[Drawn]) -> list[Drawn]:
    """The runs of which not everything is there yet."""
    return [drawn for drawn in runs if not drawn.run.is_finished()]
