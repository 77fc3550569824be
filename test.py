"""Evaluates a checkpoint on a dataset, with every ablation.

    python test.py --dataset mvtec --data-path data/mvtec --model-name fdsl --k-shot 1 --seed 14
    python test.py --from-maps results/fdsl/mvtec/1shot/seed14/mul_13_2_0.5 --win-weight 0.3

By default the heads are those trained on the other dataset. Writes results/MODEL/DATASET/Kshot/seedS/RUN/. A
run that was interrupted goes on with the same command after its last finished category.
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.test"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer(at_once=True)

import argparse
import logging

from fdsl.assembly import build_detector
from fdsl.detection import Overflow, detect
from fdsl.flags.run_settings import new_config, rerun_config
from fdsl.flags.test_flags import parse
from fdsl.results import write_results
from fdsl.runs import RunFolder
from fdsl.store.checkpoint import Checkpoint
from fdsl.store.maps import RunMaps, load_maps
from fdsl.tested_set import TestedSet, draw_test_set, of_photographs
from utils.command import run_command
from utils.device import seed_everything, worker_count
from utils.errors import ConfigError, DataError, ModelError
from utils.signals import how_to_continue

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv, __doc__)
    config, checkpoint = rerun_config(args) if args.from_maps else new_config(args)
    seed_everything(config.seed)
    tested = draw_test_set(config)
    run = RunFolder(args.results, of_photographs(config, tested, checkpoint, args.from_maps))
    if not args.force and run.is_finished():
        if args.pictures == 0 or run.has_report:
            run.show()
            return
        if run.has_maps:
            args.from_maps = run.draw_from_own_maps()
    with run.locked():
        if args.from_maps:
            maps = stored_maps(run, tested, args)
        else:
            maps = computed_maps(run, tested, checkpoint, args)
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
    run: RunFolder, tested: TestedSet, checkpoint: Checkpoint | None, args: argparse.Namespace
) -> RunMaps:
    """The maps of a new run, in float32 where values overflow in the precision asked for.

    `run` begins once there is a detector: a run that cannot be has changed nothing. Categories that an
    interrupted run has finished are taken from it.
    """
    detector = build_detector(run.config.detector, checkpoint)
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
    detector = build_detector(run.config.detector, checkpoint)
    return detect(detector, *photographs, run.config.identity("maps"), *settings)


def command() -> None:
    """The command, with errors as one sentence and exit codes."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
