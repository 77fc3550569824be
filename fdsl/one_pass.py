"""Several test runs on one backbone: each batch of test images is encoded once for all of them.

What a run gets is byte for byte what it gets by itself. The same batches go through the same backbone, and
each run matches them against its own memory. The maps are left as the finished parts of an interrupted run
(fdsl/store/finished_parts.py), which the run itself then takes up.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from data.dataset import InspectionDataset, make_loader
from data.grey import doubts_of
from fdsl.detection import Known, keys_of_parts, remember_shots
from fdsl.inspection import Reading
from fdsl.runs import RunFolder
from fdsl.scoring import NotFinite, Scorer
from fdsl.store.finished_parts import FinishedParts
from fdsl.store.maps import RunMaps
from fdsl.tested_set import TestedSet
from models.detector import NO_WINDOWS, Detector
from models.encoded_once import EncodedOnce
from models.features import ScoreMaps, join_score_maps
from utils.config import AUTO
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


class Owner(NamedTuple):
    """A run that takes up a category's maps: its parts, the key of this one, and whether it looks through
    windows."""

    parts: FinishedParts
    key: dict[str, Any]
    windowed: bool

    def keep(self, names: list[str], maps: ScoreMaps) -> None:
        """Writes the maps, or those of whole images alone, as a finished part."""
        own = maps if self.windowed else ScoreMaps(maps.base, maps.base_score)
        self.parts.save(self.key, RunMaps(names, own))


@dataclass
class Waiting:
    """The work on one category for runs that share its maps: they differ in how these are fused and
    evaluated. Its first run, the detector, and the maps found so far."""

    drawn: Drawn
    shots: InspectionDataset
    tested: InspectionDataset
    scorer: Scorer
    owners: list[Owner] = field(default_factory=list)
    found: list[ScoreMaps] = field(default_factory=list)

    @property
    def same_images(self) -> tuple:
        """Works that are equal in this look at the same arrays."""
        names = tuple(record.image_path for record in self.tested.records)
        return names, self.tested.layout, self.tested.grey

    @property
    def draw(self) -> tuple[str, ...]:
        """The references, in order."""
        return tuple(record.image_path for record in self.shots.records)

    def holds(self, other: Waiting) -> bool:
        """Whether its memory is the other's, or begins with it: fewer shots of a seed are the first of
        more."""
        if self._kind_of_bank != other._kind_of_bank or self.draw[: len(other.draw)] != other.draw:
            return False
        return self.scorer.detector.settings.tiles == 1 or len(self.draw) == len(other.draw)

    @property
    def _kind_of_bank(self) -> tuple:
        """Works that are equal in this remember the same of the same references."""
        detector, run = self.scorer.detector, self.drawn.run.config
        method = detector.method
        alone = not method.remembers_bank or run.rotations == AUTO
        windows = replace(detector.settings, winmode="", win_weight=0)
        shared = run.rotations, windows, detector.windows is None, method.needs_references
        return (id(self),) if alone else shared

    @property
    def order(self) -> tuple:
        """Where it stands among the works of a category: those of the same windows together, those of one
        draw together, and first who wants most of the backbone, which then serves the others too, and who
        has most references, whose bank begins with the others'."""
        detector, config = self.scorer.detector, self.drawn.run.config
        windows = detector.settings if detector.windows is not None else NO_WINDOWS
        shape = detector.windows is None, windows.win_size, windows.win_stride, windows.win_zip
        return shape, config.seed, -len(detector.looks_for), -config.k_shot

    def keep(self) -> None:
        """Writes the maps as a finished part of each run."""
        names, maps = [record.image_path for record in self.tested.records], join_score_maps(self.found)
        for owner in self.owners:
            owner.keep(names, maps)
        self.found.clear()


def share_encoding(
    runs: Sequence[tuple[Drawn, Detector]], reading: Reading, memory_gib: float | None = None
) -> None:
    """Computes the maps that the runs' parts lack, one category after the other; each run has a detector,
    and all detectors have the same backbone.

    `memory_gib`: what memory banks and encoded batches may take, by default half of what is free. Banks that
    do not fit are taken in several passes over the test images; where not even one batch fits, nothing is
    done, and each run encodes for itself. So does one that looks at all test images first.
    """
    runs = [(drawn, detector) for drawn, detector in runs if not detector.looks_at_inspected]
    if not runs:
        return
    first = runs[0][1]
    budget = int(GIB * memory_gib) if memory_gib else free_bytes(first.backbone.device) // 2
    batch = max(_bytes_of_a_batch(detector, reading.batch_size) for _, detector in runs)
    if batch > budget:
        logger.info(
            "one encoded batch takes %.1f GiB, --memory gives %.1f: each run encodes for itself",
            batch / GIB,
            budget / GIB,
        )
        return
    works = _works(runs, reading)
    _encode_once([work.scorer.detector for part in works.values() for work in part], 2 * batch)
    _go_through_all(works, budget - 2 * batch, reading)


def _encode_once(detectors: Sequence[Detector], kept_bytes: int) -> None:
    """From now on what one of the detectors has encoded serves all, up to so many bytes of it; also what
    they encode of their references."""
    once = EncodedOnce(detectors[0].backbone.encode, kept_bytes)
    for detector in detectors:
        detector.once = once


def _go_through_all(works: Mapping[str, list[Waiting]], budget: int, reading: Reading) -> None:
    """Does the works of each category, as many at a time as have memories that fit into the budget."""
    for number, (category, waiting) in enumerate(works.items(), start=1):
        what = f"{printable(category)} ({number}/{len(works)})"
        while waiting:
            taken = _remembered(waiting, max(budget, 1))
            waiting = waiting[len(taken) :]
            if waiting:
                logger.info("%s: the banks of %d more runs wait for another pass", what, len(waiting))
            _go_through(taken, reading, what)
        how_to_continue(f"the same command goes on after {number} of {len(works)} categories")


def _bytes_of_a_batch(detector: Detector, batch_size: int) -> int:
    """What the tokens of so many images take at most, with their windows or tiles."""
    backbone, size = detector.backbone, detector.backbone.dtype.itemsize
    patches = detector.grid**2 * (1 + _most_tiles(detector.settings.tiles))
    if detector.windows is not None:
        patches += len(detector.windows) * detector.settings.encoded_side**2
    raw = 4 * bool(detector.method.want)
    return batch_size * patches * backbone.width * len(backbone.layers) * (size + raw)


def _most_tiles(tiles: int) -> int:
    """About as many tiles as a photograph that is not square has at most."""
    along = MOST_TILES if tiles == AUTO_TILES else tiles
    return 0 if tiles == 1 else 2 * along**2


def _works(runs: Sequence[tuple[Drawn, Detector]], reading: Reading) -> dict[str, list[Waiting]]:
    """Category -> what is still to be done on it, in the order to do it; runs that need the same maps are one
    work. Those without windows find theirs beside those with some."""
    works: dict[str, dict[str, Waiting]] = {}
    like = Scorer(runs[0][1])
    for drawn, detector in sorted(runs, key=lambda one: one[1].windows is None):
        run, tested = drawn
        keys = keys_of_parts(
            detector, tested.root, tested.references, tested.records, run.config.identity("maps"), tested.grey
        )
        parts = FinishedParts(run.path)
        for category, records in tested.records.items():
            if parts.load(keys[category], [record.image_path for record in records]) is not None:
                continue
            known = works.setdefault(category, {})
            same = _same_maps(keys[category], known)
            if same not in known:
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
                scorer.detector.speak_of(category)
                known[same] = Waiting(drawn, shots, images, scorer)
            known[same].owners.append(Owner(parts, keys[category], detector.windows is not None))
    return {
        category: sorted(known.values(), key=lambda work: work.order) for category, known in works.items()
    }


def _same_maps(key: Mapping[str, Any], known: Iterable[str]) -> str:
    """What the works of one category that serve a part of this key are called: the one of `known` whose maps
    of whole images are its own where it has no windows, else all that its maps depend on."""
    windows = key["windows"]
    base = json.dumps({**key, "windows": {"tiles": windows["tiles"]}}, sort_keys=True, default=str)
    if windows["winmode"] != "nan":
        return base + json.dumps({**windows, "winmode": ""}, sort_keys=True)
    return next((one for one in known if one.startswith(base)), base)


def _remembered(waiting: Sequence[Waiting], budget: int) -> list[Waiting]:
    """The first of the works whose memories fit into the budget, at least one; they have seen their
    references. Those that one memory serves have it together."""
    taken: list[Waiting] = []
    held = 0
    owners: list[Waiting] = []
    for work in waiting:
        owner = next((one for one in owners if one.holds(work)), None)
        if owner is None and owners and held + held // len(owners) > budget:
            break
        known = None if owner is None else Known(owner.scorer.detector, len(owner.shots))
        try:
            if len(work.shots):
                remember_shots(work.scorer, work.shots, work.drawn.run.config.rotations or 1, known)
            if owner is None:
                owners.append(work)
        except NotFinite:
            work.scorer = Scorer(work.scorer.detector.another(), work.scorer)  # its own run says it
        work.tested.layout = work.scorer.detector.layout
        held += work.scorer.detector.memory_bytes if owner is None else 0
        taken.append(work)
    for work in taken:
        work.scorer.detector.forget_matched()
    return taken


def _go_through(works: Sequence[Waiting], reading: Reading, what: str) -> None:
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
        label = f"{what}, {sum(len(work.owners) for work in group)} runs"
        going = list(group)
        for batch in progress(loader, len(images), label, lambda batch: len(batch["path"])):
            going = _score(going, batch)
        for work in going:
            work.keep()
        for work in group:  # the next pass needs the memory
            work.scorer = Scorer(work.scorer.detector.another(), work.scorer)


def _score(works: Sequence[Waiting], batch: dict) -> list[Waiting]:
    """Scores a batch for all works; returns those that go on. What was matched is forgotten once the next one
    has another bank."""
    going = []
    for work, following in zip(works, [*works[1:], None]):
        if _scored(work, batch):
            going.append(work)
        if following is None or not work.holds(following):
            work.scorer.detector.forget_matched()
    return going


def _scored(work: Waiting, batch: dict) -> bool:
    """Scores a batch for one work; False where a map is not finite, which its own run will say."""
    detector = work.scorer.detector
    if detector.memory is None and detector.method.needs_references:
        return False
    try:
        work.found.append(work.scorer(batch["image"], batch["path"]))
    except NotFinite:
        work.found.clear()
        return False
    return True
