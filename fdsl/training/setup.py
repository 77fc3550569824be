"""A training before its first step: its plan, backbone, training set, and the state of an interrupted one."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data.catalogue import describe_catalogue, open_catalogue
from fdsl.config.training_config import TrainedWith, TrainingPlan, TrainingSettings
from fdsl.factory import machine_for
from fdsl.store.checkpoint import differences
from fdsl.store.training_state import SavedTraining, TrainingState
from fdsl.training.training_set import TrainingSet, join_training_sets, sample_training_set
from models.backbone import Backbone
from models.backbones.backbone_registry import load_backbone
from utils.config import SYNTHETIC_IMAGES
from utils.device import make_repeatable, seed_everything, use_threads
from utils.errors import ConfigError
from utils.signals import how_to_continue

logger = logging.getLogger("fdsl")


@dataclass(frozen=True)
class PreparedTraining:
    """A training before its first step: the backbone, `load` for another precision, the training set, and the
    state of an interrupted training."""

    plan: TrainingPlan
    backbone: Backbone
    load: Callable[[torch.dtype], Backbone]
    training_set: TrainingSet
    state: TrainingState
    saved: SavedTraining | None


def prepare(plan: TrainingPlan, unfinished: Path, restarted: bool) -> PreparedTraining:
    """Reads everything that a training needs; writes nothing. `unfinished`: the file of its saved states.
    `restarted`: the command is started again, so it goes on."""
    seed_everything(plan.recipe.seed)
    use_threads(plan.threads)
    machine = machine_for(plan.backbone, plan.device, plan.precision)
    device = torch.device(machine.device)
    make_repeatable(device)

    training_set = open_training_set(plan)

    def load(precision: torch.dtype) -> Backbone:
        return load_backbone(plan.backbone, device, precision)

    backbone = load(getattr(torch, machine.precision))
    recipe = plan.recipe
    if not recipe.epochs:
        recipe = replace(recipe, epochs=math.ceil(SYNTHETIC_IMAGES / len(training_set.records)))
    training = TrainingSettings(
        recipe=recipe,
        image_digests=training_set.images_digest(),
        files=training_set.digest(),
        images=training_set.images,
        machine=machine,
    )
    config = TrainedWith(
        backbone=plan.backbone,
        options=plan.options,
        fingerprint=backbone.fingerprint,
        dataset=plan.trained_on,
        training=training,
    )
    state = TrainingState(unfinished, config)
    saved = read_unfinished(state) if plan.resume or restarted else None
    return PreparedTraining(plan, backbone, load, training_set, state, saved)


def read_unfinished(state: TrainingState) -> SavedTraining | None:
    """The unfinished training of these settings and images, or None; ConfigError for one of others, which is
    not overwritten."""
    if not state.file.exists():
        return None
    saved = state.read()
    if changed := differences(saved.config, state.config):
        raise ConfigError(
            f"{state.file} holds an unfinished training with another {', '.join(changed)} (after step "
            f"{saved.position.step}); finish it with its own settings, or start anew with --no-resume."
        )
    if saved.config.training.files != state.config.training.files:
        raise ConfigError(
            f"{state.file} holds an unfinished training on other files: the dataset has changed since; "
            "put the files back, or start anew with --no-resume."
        )
    logger.info(
        "Going on after step %d of an unfinished training (--no-resume starts anew).", saved.position.step
    )
    how_to_continue(f"the same command goes on after step {saved.position.step}")
    then, now = saved.config.training.machine, state.config.training.machine
    if other := [name for name in ("device_name", "torch") if getattr(then, name) != getattr(now, name)]:
        logger.warning(
            "It began with another %s: the weights can differ in their last bits.", " and ".join(other)
        )
    return saved


def facts_of(prepared: PreparedTraining) -> dict[str, Any]:
    """The facts that must be the same in every process of a training."""
    config, saved = prepared.state.config, prepared.saved
    machine = config.training.machine
    of_machine = {name: getattr(machine, name) for name in ("device_name", "precision", "torch")}
    step = None if saved is None else saved.position.step
    return {**config.identity(), **of_machine, "files": config.training.files, "unfinished training": step}


def open_training_set(plan: TrainingPlan) -> TrainingSet:
    """The training set of all datasets of the plan."""
    recipe = plan.recipe
    shots = 0 if plan.options.fd == "none" else recipe.k_shot
    parts = []
    for dataset, folder in zip(plan.dataset, plan.data_path, strict=True):
        catalogue = open_catalogue(dataset, folder, plan.meta)
        logger.info("%s", describe_catalogue(catalogue, dataset))
        parts.append(sample_training_set(catalogue, shots, recipe.seed, dataset, recipe.augmentation))
    training_set = parts[0] if len(parts) == 1 else join_training_sets(parts)
    training_set.check_masks()
    return training_set
