"""From test.py's flags to the runs that they ask for: new ones, or a finished one's maps evaluated anew."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fdsl.config.resolve import (
    OF_DETECTORS,
    backbone_config,
    method_config,
    other_maps,
    refuse_without_effect,
    window_config,
)
from fdsl.config.run_config import DetectorConfig, RunConfig
from fdsl.evaluation.few_shot_split import FewShotSplit, sample_split, with_split
from fdsl.evaluation.plan import EvaluationOptions, PlannedRun, as_typed, refuse_one_folder
from fdsl.evaluation.run_folder import RunFolder, read_run_config
from fdsl.factory import machine_for
from fdsl.flags.ablation_grid import as_text
from fdsl.inspection.reading import Reading
from fdsl.store.checkpoint import Checkpoint, load_checkpoint
from fdsl.store.finished_categories import FinishedCategories
from models.methods.registry import METHODS
from utils.config import BY_CATEGORY, OTHER_DATASET, BackboneConfig, MethodConfig, checkpoint_path
from utils.device import use_threads
from utils.errors import ConfigError, ModelError
from utils.files import file_digest, sampled_digest
from utils.log import logged_once
from utils.options import options_of
from utils.signals import command_line
from utils.text import in_words


def evaluation_options(args: argparse.Namespace, restarted: bool) -> EvaluationOptions:
    """What the flags ask of all runs; `restarted`: the command is started again, so its runs go on."""
    return EvaluationOptions(
        Reading(args.batch_size, args.workers),
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
    refuse_without_effect(vars(args))
    if not METHODS[args.method].needs_heads:
        return _untrained_config(args), None
    path = args.checkpoint or _default_checkpoint(args)
    checkpoint = load_checkpoint(path)
    if checkpoint.options is not None:
        refuse_without_effect({**vars(args), "fd": checkpoint.options.fd})
    backbone = backbone_config(vars(args), checkpoint.backbone)
    options = method_config(vars(args), checkpoint.options, checkpoint.has_nam)
    config = _config_of(args, backbone, options)
    return replace(
        config, checkpoint=str(path), checkpoint_digest=file_digest(path), trained_on=checkpoint.trained_on
    ), checkpoint


def _default_checkpoint(args: argparse.Namespace) -> Path:
    trained_on = OTHER_DATASET.get(args.dataset)
    if trained_on is None:
        raise ConfigError(
            f"--dataset {args.dataset} has no default checkpoint; name one with --checkpoint FILE, or test "
            "without trained heads with --method nearest."
        )
    return checkpoint_path(args.checkpoints or Path("checkpoints"), args.model_name, trained_on)


def _untrained_config(args: argparse.Namespace) -> RunConfig:
    """A run without trained heads, and without windows where none are asked for."""
    args = argparse.Namespace(**{**vars(args), "use_nam": 0, "winmode": args.winmode or "nan"})
    return _config_of(args, backbone_config(vars(args)), method_config(vars(args)))


def _config_of(args: argparse.Namespace, backbone: BackboneConfig, options: MethodConfig) -> RunConfig:
    """The run of the flags, as yet without heads and photographs."""
    detector = DetectorConfig(
        method=args.method,
        backbone=backbone,
        options=options,
        windows=window_config(vars(args)),
        machine=machine_for(backbone, args.device, args.precision),
    )
    if detector.reads_text and args.object is None:
        detector = replace(detector, options=replace(options, object=BY_CATEGORY))
    return RunConfig(
        dataset=args.dataset,
        data_path=str(args.data_path or Path("data") / args.dataset),
        meta=str(args.meta) if args.meta else None,
        model_name=args.model_name,
        k_shot=args.k_shot,
        seed=args.seed,
        detector=detector,
        checkpoint="",
        checkpoint_digest="",
        trained_on=None,
        weights=sampled_digest(Path(backbone.pretrained)),
        image_score=args.image_score,
        metric_size=args.metric_size,
        pictures=args.pictures,
        command=command_line(),
        rotations=args.rotate_references or 1,
    )


def rerun_config(args: argparse.Namespace) -> tuple[RunConfig, None]:
    """A finished run, fused and evaluated as the flags ask; it needs no checkpoint."""
    config = read_run_config(args.from_maps)
    if FinishedCategories.left_in(args.from_maps) or not (args.from_maps / "metrics.json").is_file():
        raise ConfigError(
            f"The run in {args.from_maps} has not ended, so its maps may be of an earlier one; run test.py "
            "to its end first."
        )
    refuse_changes(args, config)
    made = config.detector
    refuse_without_effect(
        {**vars(args), "method": made.method, "winmode": args.winmode or made.windows.winmode}
    )
    windows = window_config(vars(args), config.detector.windows)
    return replace(
        config,
        data_path=str(args.data_path) if args.data_path else config.data_path,
        meta=str(args.meta) if args.meta else config.meta,
        detector=replace(config.detector, windows=windows),
        **{
            name: getattr(args, one.dest) or getattr(config, name)
            for name, one in options_of(RunConfig).items()
            if one.fused
        },
        pictures=args.pictures,
        command=command_line(),
    ), None


def refuse_changes(args: argparse.Namespace, config: RunConfig) -> None:
    """ConfigError for a flag that asks for other maps than the stored ones of `config`."""
    for name, value in _of_the_maps(config).items():
        given = getattr(args, name)
        if given is None:
            continue
        given = OF_DETECTORS[name].taken(given) if name in OF_DETECTORS else given
        if (str(given) if isinstance(given, Path) else given) != value:
            raise ConfigError(other_maps(name, in_words(value)))


def _of_the_maps(config: RunConfig) -> dict[str, Any]:
    """Flag -> the value that a run's stored maps are of."""
    made = config.detector
    stored = {**vars(made.options), **vars(made.backbone)}
    return {
        "model_name": config.model_name,
        "k_shot": config.k_shot,
        "seed": config.seed,
        "method": made.method,
        "dataset": config.dataset,
        "checkpoint": config.checkpoint,
        "rotate_references": config.rotations,
        **{name: value for name, value in stored.items() if not OF_DETECTORS[name].place},
    }
