"""Several processes share test runs: each computes whole categories and writes them as finished categories of
the run.

A category, with all its shots and seeds, is the unit of work, so its batches do not depend on the process.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fdsl.config.evaluation_options import EvaluationOptions
from fdsl.evaluation.plan import PlannedRun
from fdsl.evaluation.single_pass import Detectors, compute_maps
from fdsl.scoring import NotFinite
from utils.log import only_from, start_logging
from utils.world import World


def facts_of(runs: list[PlannedRun]) -> dict[str, Any]:
    """The facts that must be the same in all processes that compute the runs."""
    facts: dict[str, list[Any]] = {}
    for run in runs:
        machine = run.config.detector.machine
        own = {"device name": machine.device_name, "torch": machine.torch}
        for name, value in {**run.config.identity("run"), **own}.items():
            facts.setdefault(name, []).append(value)
    return facts


def begin(
    runs: Sequence[PlannedRun], held: contextlib.ExitStack, options: EvaluationOptions, world: World
) -> list[PlannedRun]:
    """The first process locks the runs' folders, until `held` is closed, and begins the runs. Returns the
    runs without those that another command has finished meanwhile."""

    def take() -> list[Path]:
        if not world.is_first:
            return []
        for run in sorted(runs, key=lambda run: run.folder.path):
            held.enter_context(run.folder.locked())
        begun = [run for run in runs if options.force or run.folder.missing() == "maps"]
        for run in begun:
            run.folder.begin(run.split, options.resume)
        if len(begun) > 1:
            start_logging()  # lines about several runs are in no run's own log
        return [run.folder.path for run in begun]

    begun = world.gathered(world.agree(take))[0]
    return [run for run in runs if run.folder.path in begun]


def compute_among(
    runs: Sequence[PlannedRun], detectors: Detectors, options: EvaluationOptions, world: World
) -> dict[Path, NotFinite]:
    """compute_maps in all processes: each computes its own categories of every run."""
    if not world.joined:
        return compute_maps(runs, detectors, options.reading, options.memory)
    only_from(logging.INFO if world.is_first else logging.WARNING)
    chosen = own_categories(runs, world)
    own = [run.of_categories(chosen) for run in runs]
    problems = compute_maps(
        [run for run in own if run.split.records], detectors, options.reading, options.memory
    )
    return {path: problem for part in world.gathered(problems) for path, problem in part.items()}


def own_categories(runs: Iterable[PlannedRun], world: World) -> set[str]:
    """The categories that this process computes for all runs, sharded by their number of test images."""
    sizes: dict[str, int] = {}
    for run in runs:
        for category, records in run.split.records.items():
            sizes[category] = sizes.get(category, 0) + len(records)
    return shards_of(sizes, world.size)[world.rank]


def shards_of(sizes: Mapping[str, int], count: int) -> list[set[str]]:
    """Names in `count` shards by their sizes: the largest first, each to the smallest shard."""
    shards: list[set[str]] = [set() for _ in range(count)]
    totals = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        smallest = totals.index(min(totals))
        shards[smallest].add(name)
        totals[smallest] += sizes[name]
    return shards
