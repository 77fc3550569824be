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

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

from fdsl.ablation import write_ablations
from fdsl.alike import of_one_backbone
from fdsl.assembly import build_detector
from fdsl.detection import Overflow, detect
from fdsl.flags.test_flags import parse
from fdsl.planning import Planned, each_once, plan
from fdsl.results import write_results
from fdsl.runs import RunFolder
from fdsl.sharing import facts_of, share
from fdsl.store.checkpoint import Checkpoint
from fdsl.store.maps import RunMaps, load_maps
from fdsl.tested_set import TestedSet
from models.detector import Detector
from models.methods.registry import METHODS
from utils.command import run_command
from utils.device import seed_everything, worker_count
from utils.errors import ConfigError, DataError, ModelError
from utils.signals import how_to_continue
from utils.world import World, connected, find_world

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> None:
    several = parse(argv, __doc__)
    args = several[0]
    with connected(find_world()) as world:
        restarted = world.restarted()
        for one in several:
            one.resume = one.resume or restarted
        runs = world.agree(lambda: plan(several), facts_of)
        if args.from_maps and not world.is_first:
            return
        *before, last = of_one_backbone(each_once(runs))
        for group in before:
            end(group, share(group, world), world)
        detectors = share(last, world) if not args.from_maps else {}
    end(last, detectors, world)
    if args.compared and world.is_first:
        write_ablations(runs)


def end(runs: list[Planned], detectors: Mapping[Path, Detector], world: World) -> None:
    """Ends the runs that were computed together, in the one process that is to; those with trained heads
    last, whose reports show the others' pixel scores beside their own."""
    if not world.is_first:
        return
    for run in sorted(runs, key=lambda run: METHODS[run.config.detector.method].needs_heads):
        test(run, detectors.get(run.drawn.run.path))


def test(planned: Planned, detector: Detector | None) -> None:
    """One run: computed by `detector`, or by one of its own, and evaluated, or evaluated anew."""
    args, checkpoint, tested = planned.args, planned.checkpoint, planned.tested
    seed_everything(planned.config.seed)
    run = planned.drawn.run
    ended = run.ended_at
    if not args.force and run.is_finished():
        if args.pictures == 0 or run.has_report:
            run.show()
            return
        if run.has_maps:
            args.from_maps = run.draw_from_own_maps()
    with run.locked():
        ended_meanwhile = run.ended_at != ended  # by another process
        if ended_meanwhile and not (args.force or args.from_maps) and run.is_finished():
            run.show()
            return
        if args.from_maps:
            maps = stored_maps(run, tested, args)
        else:
            maps = computed_maps(run, tested, checkpoint, args, detector)
        how_to_continue(
            "the same command goes on with tables and pictures: the maps of every category are finished"
        )
        write_results(run.path, run.config, maps, tested, args.max_pixels)
        run.finish()


def stored_maps(run: RunFolder, tested: TestedSet, args: argparse.Namespace) -> RunMaps:
    """The maps of the run that --from-maps names; `run` begins once they are there."""
    maps = load_maps(args.from_maps / "maps.npz").select(tested.names)
    run.begin(tested, args.resume, args.from_maps)
    return maps


def computed_maps(
    run: RunFolder,
    tested: TestedSet,
    checkpoint: Checkpoint | None,
    args: argparse.Namespace,
    detector: Detector | None = None,
) -> RunMaps:
    """The maps of a new run, in float32 where values overflow in the precision asked for.

    `run` begins once there is a detector: a run that cannot be has changed nothing. Categories that an
    interrupted run has finished are taken from it.
    """
    detector = detector or build_detector(run.config.detector, checkpoint, categories=tested.records)
    run.begin(tested, args.resume)
    photographs = tested.root, tested.references, tested.records, run.parts
    settings = (
        args.batch_size,
        worker_count(args.workers),
        args.max_pixels,
        run.config.rotations or 1,
        tested.grey,
    )
    try:
        return detect(detector, *photographs, run.config.identity("maps"), *settings)
    except Overflow as overflow:
        reason = str(overflow)  # the error itself would hold the detector; the next one needs the memory
    del detector
    logger.warning("%s The run is repeated in float32.", reason)
    run.fall_back_to_float32()
    detector = build_detector(run.config.detector, checkpoint, categories=tested.records)
    return detect(detector, *photographs, run.config.identity("maps"), *settings)


def command() -> None:
    """The command, with errors as one sentence and exit codes."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
