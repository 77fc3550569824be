"""From test.py's flags to the runs that they ask for: new ones, or a finished one's maps evaluated anew."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fdsl.config.evaluation_options import EvaluationOptions
from fdsl.config.resolve import given_settings
from fdsl.config.run_config import RunConfig
from fdsl.evaluation.few_shot_split import FewShotSplit, sample_split, with_split
from fdsl.evaluation.plan import PlannedRun, as_typed, refuse_one_folder
from fdsl.evaluation.run_folder import RunFolder, read_run_config
from fdsl.factory import detector_config
from fdsl.flags.ablation_grid import as_text
from fdsl.flags.groups import read
from fdsl.store.checkpoint import Checkpoint, load_checkpoint
from fdsl.store.maps import FinishedCategories
from models.methods.registry import METHODS
from utils.config import BY_CATEGORY, OTHER_DATASET, WindowConfig, checkpoint_path
from utils.console import logged_once
from utils.device import use_threads
from utils.errors import ConfigError, ModelError
from utils.files import file_digest, sampled_digest
from utils.options import given_of, options_of
from utils.signals import command_line


def evaluation_options(args: argparse.Namespace, restarted: bool) -> EvaluationOptions:
    """What the flags ask of all runs; `restarted`: the command is started again, so its runs go on."""
    options = read(EvaluationOptions, args)
    return replace(options, resume=options.resume or restarted, compared=args.compared)


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
                splits[sampled] = sample_split(config)
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


def new_config(args: argparse.Namespace) -> tuple[RunConfig, Checkpoint | None]:
    """The run that the flags ask for, and its checkpoint (None without trained heads)."""
    given_settings(vars(args)).refuse_without_effect()
    if not METHODS[args.method].needs_heads:
        return _config_of(args, None), None
    path = args.checkpoint or _default_checkpoint(args)
    checkpoint = load_checkpoint(path)
    if checkpoint.options is not None:
        given_settings({**vars(args), "fd": checkpoint.options.fd}).refuse_without_effect()
    return replace(
        _config_of(args, checkpoint),
        checkpoint=str(path),
        checkpoint_digest=file_digest(path),
        trained_on=checkpoint.trained_on,
    ), checkpoint


def _default_checkpoint(args: argparse.Namespace) -> Path:
    trained_on = OTHER_DATASET.get(args.dataset)
    if trained_on is None:
        raise ConfigError(
            f"--dataset {args.dataset} has no default checkpoint; name one with --checkpoint FILE, or test "
            "without trained heads with --method nearest."
        )
    return checkpoint_path(args.checkpoints or Path("checkpoints"), args.model_name, trained_on)


def _config_of(args: argparse.Namespace, checkpoint: Checkpoint | None) -> RunConfig:
    """The run of the flags, as yet without photographs and without the facts of its heads."""
    flags = {one.name: getattr(args, one.dest) for one in options_of(RunConfig).values() if one.help}
    detector = detector_config(args.method, vars(args), args.device, args.precision, checkpoint)
    if detector.reads_text and args.object is None:
        detector = replace(detector, options=replace(detector.options, object=BY_CATEGORY))
    return RunConfig(
        dataset=args.dataset,
        data_path=str(args.data_path or Path("data") / args.dataset),
        meta=str(args.meta) if args.meta else None,
        model_name=args.model_name,
        detector=detector,
        checkpoint="",
        checkpoint_digest="",
        trained_on=None,
        weights=sampled_digest(Path(detector.backbone.pretrained)),
        command=command_line(),
        **flags,
    )


def rerun_config(args: argparse.Namespace) -> tuple[RunConfig, None]:
    """A finished run, fused and evaluated as the flags ask; it needs no checkpoint."""
    config = read_run_config(args.from_maps)
    if FinishedCategories.left_in(args.from_maps) or not (args.from_maps / "metrics.json").is_file():
        raise ConfigError(
            f"The run in {args.from_maps} has not ended, so its maps may be of an earlier one; run test.py "
            "to its end first."
        )
    made, fused = config.detector, _fused(WindowConfig, args)
    winmode = fused.get("winmode", made.windows.winmode)
    if made.windows.winmode == "nan" != winmode:
        raise ConfigError(
            f"--winmode {winmode} needs window maps, and the stored run has none (it ran with --winmode nan)."
        )
    given_settings({**fused, "method": made.method, "winmode": winmode}).refuse_without_effect()
    return replace(
        config,
        data_path=str(args.data_path) if args.data_path else config.data_path,
        meta=str(args.meta) if args.meta else config.meta,
        detector=replace(made, windows=replace(made.windows, **fused)),
        **_fused(RunConfig, args),
        pictures=args.pictures,
        command=command_line(),
    ), None


def _fused(kind: type, args: argparse.Namespace) -> dict[str, Any]:
    """The given options that combine or evaluate finished maps."""
    fused = [one for one in options_of(kind).values() if one.fused]
    return given_of(kind, {one.name: getattr(args, one.dest) for one in fused})
