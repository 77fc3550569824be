"""From test.py's flags to the runs that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from fdsl.config.run_config import RunConfig
from fdsl.evaluation.few_shot_split import FewShotSplit, sample_split, with_split
from fdsl.evaluation.plan import EvaluationOptions, PlannedRun, as_typed, refuse_one_folder
from fdsl.evaluation.run_folder import RunFolder
from fdsl.flags.ablation_grid import as_text
from fdsl.flags.run_from_flags import new_config, rerun_config
from fdsl.inspection.reading import Reading
from fdsl.store.checkpoint import Checkpoint
from models.methods.registry import METHODS
from utils.device import use_threads
from utils.errors import ConfigError, ModelError
from utils.log import logged_once


def options_of(args: argparse.Namespace, restarted: bool) -> EvaluationOptions:
    """What the flags ask of all runs; `restarted`: the command is started again, so its runs go on."""
    return EvaluationOptions(
        Reading(args.batch_size, args.workers, args.max_pixels),
        args.memory,
        args.force,
        args.resume or restarted,
        args.from_maps,
        args.compared,
    )


def plan(several: Sequence[argparse.Namespace]) -> list[PlannedRun]:
    """The runs of `several` flags, one for each; those that differ in their seed alone share what was read,
    and those of the same references their split. A run that is in several tables comes once for each.
    ConfigError where two different ones would be written to one folder."""
    use_threads(several[0].threads)
    read: dict[str, tuple[RunConfig, Checkpoint | None]] = {}
    heads: dict[str, Checkpoint | None] = {}
    splits: dict[tuple, FewShotSplit] = {}
    runs = []
    with logged_once():
        for args in several:
            key = as_text(args, ("seed", "table", "combination"))
            if key not in read:
                read[key] = _read(args)
            config, checkpoint = read[key]
            checkpoint = heads.setdefault(config.checkpoint_digest, checkpoint)
            config = config if args.from_maps else replace(config, seed=args.seed)
            sampled = (config.k_shot, config.seed, METHODS[config.detector.method].transductive)
            if sampled not in splits:
                splits[sampled] = sample_split(config, args.max_pixels)
            config = with_split(config, splits[sampled], checkpoint, args.from_maps)
            folder = RunFolder(args.results, config)
            runs.append(PlannedRun(folder, checkpoint, splits[sampled], args.table, args.combination))
        refuse_one_folder(runs)
        return runs


def _read(args: argparse.Namespace) -> tuple[RunConfig, Checkpoint | None]:
    """A run's configuration and heads; an error names the combination that it is of."""
    try:
        return rerun_config(args) if args.from_maps else new_config(args)
    except (ConfigError, ModelError) as error:
        if not args.combination:
            raise
        raise type(error)(f"--ablate {as_typed(args.combination)}: {error}") from error
