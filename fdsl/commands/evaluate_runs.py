"""test.py after its flags: from planned runs to maps, tables, pictures and reports."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdsl.config.evaluation_options import EvaluationOptions
from fdsl.evaluation.plan import PlannedRun
from fdsl.evaluation.single_pass import Detectors, compute_maps
from fdsl.evaluation.write_results import VALIDATION_MAPS, write_results
from fdsl.scoring import NotFinite
from fdsl.store.maps import RunMaps, join_run_maps, load_maps
from models.methods.registry import METHODS
from utils.console import only_from, start_logging
from utils.device import seed_everything
from utils.errors import DataError
from utils.signals import how_to_continue
from utils.text import printable
from utils.world import World

logger = logging.getLogger("fdsl")


def evaluate_runs(runs: list[PlannedRun], options: EvaluationOptions, world: World) -> None:
    """Evaluates runs on one backbone: all processes compute the missing maps of all runs together, then the
    first process evaluates each run."""
    seed_everything(runs[0].config.seed)
    missing = {run: "maps" if options.force else run.folder.missing() for run in runs}
    lacking = [run for run in runs if missing[run] == "maps" and not options.from_maps]
    detectors = world.agree(lambda: Detectors(lacking))  # may be refused, so before anything is changed
    with contextlib.ExitStack() as held:
        begun = begin(lacking, held, options, world)
        problems = compute_among(begun, detectors, options, world)
        detectors.release()  # a run in float32 needs the memory
        # Reports of trained heads show other methods' pixel scores too, so those are evaluated first.
        ordered = sorted(runs, key=lambda run: METHODS[run.config.detector.method].needs_heads)
        for run in ordered if world.is_first else ():
            if run in begun:
                start_logging(run.folder.log)
                problem = problems.get(run.folder.path)
                evaluate(run, computed_maps(run, detectors.fingerprint, problem, options), options)
            elif run in lacking or missing[run] == "nothing":
                run.folder.log_numbers()
            else:
                again = options.from_maps if missing[run] == "maps" else None
                with run.folder.locked():
                    evaluate(run, stored_maps(run, again, options), options)


def computed_maps(
    run: PlannedRun, fingerprint: str, problem: NotFinite | None, options: EvaluationOptions
) -> RunMaps:
    """The computed maps of a run, in float32 where values overflowed in its precision; ModelError where they
    are not finite."""
    if problem is not None and not problem.narrow:
        raise problem
    if problem is not None:
        logger.warning(
            "Values overflowed in %s at %s. The run is repeated in float32.",
            problem.precision,
            printable(problem.name),
        )
        run.folder.fall_back_to_float32()
    maps = run.finished_maps(fingerprint)
    if maps is None:  # of another precision, or of a process whose files are not there yet
        detectors = Detectors([run])
        for problem in compute_maps([run], detectors, options.reading).values():
            raise problem
        maps = run.finished_maps(detectors.fingerprint)
    if maps is None:
        raise DataError(f"{run.folder.path}: its finished maps are gone; give the same command again.")
    return maps


def stored_maps(run: PlannedRun, from_maps: Path | None, options: EvaluationOptions) -> RunMaps:
    """The maps in the folder `from_maps`, by default the run's own, of a finished run without pictures. The
    run begins once they are read."""
    folder = from_maps or run.folder.take_own_maps()
    maps = load_maps(folder / "maps.npz").select(run.split.names)
    if (validation := folder / VALIDATION_MAPS).is_file():
        maps = join_run_maps([maps, load_maps(validation)])
    run.folder.begin(run.split, options.resume, folder)
    return maps


def evaluate(run: PlannedRun, maps: RunMaps, options: EvaluationOptions) -> None:
    """Writes tables, scores, pictures and report of a run from its maps."""
    how_to_continue(
        "the same command goes on with tables and pictures: the maps of every category are finished"
    )
    write_results(run.folder.path, run.config, maps, run.split)
    run.folder.finish()


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
    sizes = Counter[str]()
    for run in runs:
        sizes.update({category: len(records) for category, records in run.split.records.items()})
    own = [run.of_categories(shards_of(sizes, world.size)[world.rank]) for run in runs]
    busy = [run for run in own if run.split.records]
    problems = compute_maps(busy, detectors, options.reading, options.memory)
    return {path: problem for part in world.gathered(problems) for path, problem in part.items()}


def shards_of(sizes: Mapping[str, int], count: int) -> list[set[str]]:
    """Names in `count` shards by their sizes: the largest first, each to the smallest shard."""
    shards: list[set[str]] = [set() for _ in range(count)]
    totals = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        smallest = totals.index(min(totals))
        shards[smallest].add(name)
        totals[smallest] += sizes[name]
    return shards
