"""Evaluates a checkpoint on a dataset, with every ablation.

    python test.py --dataset mvtec --data-path data/mvtec --model-name fdsl --k-shot 1 --seed 14
    python test.py --from-maps results/fdsl/mvtec/1shot/seed14/mul_13_2_0.5 --win-weight 0.3

By default the heads are those trained on the other dataset. Writes results/MODEL/DATASET/Kshot/seedS/RUN/. A
run that was interrupted goes on with the same command after its last finished category. Several numbers of
shots or seeds make a run for each of them, and each test image is encoded once for all:

    python test.py --dataset mvtec --k-shot 1 2 4 --seed 14 15 16 17 18

So do combinations of settings, which end in a table, results/MODEL/DATASET/ablation.md:

    python test.py --dataset mvtec --seed 14 15 16 --ablate winmode=nan,mul use-nam=0,1

Several processes share the categories, and leave the files of one:

    torchrun --standalone --nproc-per-node 8 test.py --dataset mvtec
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.test"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer(at_once=True)

import contextlib
import logging
from pathlib import Path

from fdsl.evaluation.ablation_table import write_ablations
from fdsl.evaluation.compute_maps import Overflow, Problem
from fdsl.evaluation.plan import EvaluationOptions, PlannedRun, trained_last, unique
from fdsl.evaluation.single_pass import Detectors, compute_maps, grouped_by_backbone
from fdsl.evaluation.write_results import write_results
from fdsl.flags.evaluate_flags import parse
from fdsl.flags.plan_runs import options_of, plan
from fdsl.parallel.by_category import begin, compute_among, facts_of
from fdsl.store.maps import RunMaps, load_maps
from utils.command import run_command
from utils.device import seed_everything
from utils.errors import ConfigError, DataError, ModelError
from utils.log import start_logging
from utils.signals import how_to_continue
from utils.world import World, connected, find_world

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> None:
    several = parse(argv, __doc__)
    with connected(find_world()) as world:
        options = options_of(several[0], world.restarted())
        runs = world.agree(lambda: plan(several), facts_of)
        for group in grouped_by_backbone(unique(runs)):
            test(group, options, world)
    if options.compared and world.is_first:
        write_ablations(runs, options.reading.max_pixels)


def test(runs: list[PlannedRun], options: EvaluationOptions, world: World) -> None:
    """Runs on one backbone: the maps that they lack are computed together, by all processes; then the first
    one evaluates each run."""
    seed_everything(runs[0].config.seed)
    missing = {run: "maps" if options.force else run.folder.missing() for run in runs}
    lacking = [run for run in runs if missing[run] == "maps" and not options.from_maps]
    detectors = world.agree(lambda: Detectors(lacking))  # before anything is changed: one may be refused
    with contextlib.ExitStack() as held:
        begun = begin(lacking, held, options, world)
        problems = compute_among(begun, detectors, options, world)
        detectors.release()  # a run in float32 needs the memory
        for run in trained_last(runs) if world.is_first else ():
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
    run: PlannedRun, fingerprint: str, problem: Problem | None, options: EvaluationOptions
) -> RunMaps:
    """The maps of a run that were computed, in float32 where values overflowed in the precision asked for;
    ModelError where they are not finite."""
    if isinstance(problem, Overflow):
        logger.warning("%s The run is repeated in float32.", problem)
        run.folder.fall_back_to_float32()
    elif problem is not None:
        raise problem
    maps = run.finished_maps(fingerprint)
    if maps is None:  # they are those of another precision, or of a process whose files are not there yet
        detectors = Detectors([run])
        for problem in compute_maps([run], detectors, options.reading).values():
            raise problem
        maps = run.finished_maps(detectors.fingerprint)
    if maps is None:
        raise DataError(f"{run.folder.path}: what was finished is gone; give the same command again.")
    return maps


def stored_maps(run: PlannedRun, from_maps: Path | None, options: EvaluationOptions) -> RunMaps:
    """The maps in `from_maps`, by default those that a finished run without pictures has itself; the run
    begins once they are there."""
    folder = from_maps or run.folder.take_own_maps()
    maps = load_maps(folder / "maps.npz").select(run.split.names)
    run.folder.begin(run.split, options.resume, folder)
    return maps


def evaluate(run: PlannedRun, maps: RunMaps, options: EvaluationOptions) -> None:
    """Tables, scores, pictures and report of a run from its maps."""
    how_to_continue(
        "the same command goes on with tables and pictures: the maps of every category are finished"
    )
    write_results(run.folder.path, run.config, maps, run.split, options.reading.max_pixels)
    run.folder.finish()


def command() -> None:
    """The command, with errors as one sentence and exit codes."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
