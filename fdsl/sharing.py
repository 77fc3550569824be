"""A test run's work among several processes: each computes whole categories, which are left as the finished
parts of an interrupted run.

A category is the smallest unit, with all its shots and seeds, so its batches are the same whoever computes
it. Which process that was leaves no trace.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fdsl.alike import Detectors
from fdsl.detection import Overflow, detect
from fdsl.inspection import Reading
from fdsl.one_pass import Drawn, share_encoding
from fdsl.planning import Planned
from fdsl.store.finished_parts import FinishedParts
from models.detector import Detector
from utils.device import seed_everything, worker_count
from utils.log import only_from
from utils.world import World

logger = logging.getLogger("fdsl")


def facts_of(runs: list[Planned]) -> dict[str, Any]:
    """What must be the same wherever a part of the runs is computed."""
    found: dict[str, list[Any]] = {}
    for run in runs:
        machine = run.config.detector.machine
        own = {"device name": machine.device_name, "torch": machine.torch}
        for name, value in {**run.drawn.run.config.identity("run"), **own}.items():
            found.setdefault(name, []).append(value)
    return found


def share(runs: list[Planned], world: World) -> dict[Path, Detector]:
    """Computes the maps of several runs of one backbone together, or this process's part of them, and leaves
    them where each run takes up what is finished; returns the detectors of those that were not finished, by
    their folders. Nothing is done for a single run in a single process."""
    args = runs[0].args
    if len(runs) == 1 and world.size == 1:
        return {}
    waiting = [run for run in runs if args.force or not run.drawn.run.is_finished()]
    if not waiting:
        return {}
    seed_everything(runs[0].config.seed)
    known = Detectors()
    detectors = world.agree(lambda: [known.of(run) for run in waiting])
    drawn = [run.drawn for run in waiting]
    reading = Reading(args.batch_size, args.workers, args.max_pixels)
    with contextlib.ExitStack() as held:
        world.agree(lambda: hold(drawn, held, world, args.resume))
        if world.size == 1:
            share_encoding(list(zip(drawn, detectors)), reading, args.memory)
        else:
            if world.joined:
                only_from(logging.INFO if world.is_first else logging.WARNING)
            compute_own(list(zip(drawn, detectors)), world, reading, args.memory)
        world.wait()
    for run in runs:
        run.args.resume = True  # what was computed together
    return {one.run.path: detector for one, detector in zip(drawn, detectors)}


def hold(waiting: list[Drawn], held: contextlib.ExitStack, world: World, resume: bool) -> None:
    """Takes the runs' folders; what an earlier run has left there goes where it is not to be taken up."""
    for one in sorted(waiting, key=lambda one: str(one.run.path)):
        held.enter_context(one.run.locked_for(world))
        if not resume and world.is_first:
            FinishedParts(one.run.path).clear()


def dealt(sizes: Mapping[str, int], hands: int) -> list[set[str]]:
    """Names by their sizes to so many hands: the largest first, each to the hand that holds least."""
    found: list[set[str]] = [set() for _ in range(hands)]
    held = [0] * hands
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        hand = held.index(min(held))
        found[hand].add(name)
        held[hand] += sizes[name]
    return found


def own_categories(runs: Iterable[Drawn], world: World) -> set[str]:
    """The categories that this process computes, for all of the runs: dealt by their test images."""
    sizes: dict[str, int] = {}
    for drawn in runs:
        for category, records in drawn.tested.records.items():
            sizes[category] = sizes.get(category, 0) + len(records)
    return dealt(sizes, world.size)[world.rank]


def compute_own(
    runs: Sequence[tuple[Drawn, Detector]], world: World, reading: Reading, memory_gib: float | None
) -> None:
    """Computes this process's categories of every run and leaves them as finished parts. Values that overflow
    are said, and left to the run itself."""
    chosen = own_categories([drawn for drawn, _ in runs], world)
    own = [
        (Drawn(run, replace(tested, records=_only(tested.records, chosen))), detector)
        for (run, tested), detector in runs
    ]
    own = [(drawn, detector) for drawn, detector in own if drawn.tested.records]
    if len(own) > 1:
        share_encoding(own, reading, memory_gib)
    for drawn, detector in own:
        try:
            compute(detector, drawn, reading)
        except Overflow as overflow:
            logger.warning("%s The run as a whole will be repeated in float32.", overflow)


def _only(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def compute(detector: Detector, drawn: Drawn, reading: Reading) -> None:
    """What `drawn` lacks of its categories."""
    run, tested = drawn
    detect(
        detector,
        tested.root,
        tested.references,
        tested.records,
        FinishedParts(run.path),
        run.config.identity("maps"),
        reading.batch_size,
        worker_count(reading.workers),
        reading.max_pixels,
        run.config.rotations or 1,
        tested.grey,
    )
