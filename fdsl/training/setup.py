"""A training before its first step: what was asked for, and where an interrupted one stood."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data.catalogue import describe_catalogue, open_catalogue
from fdsl.config.training_config import Recipe, TrainedWith, TrainingSettings
from fdsl.factory import backbone_of
from fdsl.store.checkpoint import differences
from fdsl.store.training_state import SavedTraining, TrainingState
from fdsl.training.training_set import TrainingSet, draw_training_set, join_training_sets
from models.backbone import Backbone
from utils.config import SEVERAL, SYNTHETIC_IMAGES, BackboneConfig, MethodConfig
from utils.device import (
    choose_device,
    choose_precision,
    machine_facts,
    make_repeatable,
    seed_everything,
    use_threads,
)
from utils.errors import ConfigError
from utils.signals import how_to_continue

logger = logging.getLogger("fdsl")


@dataclass(frozen=True)
class TrainingPlan:
    """What is asked of a training, before anything is read.

    `folders`: of the `datasets`; `meta`: a meta.json that lies elsewhere. `save_every`: (steps, None) or
    (None, seconds) between two saved states. `threads`, `workers`: None: by the cores there are. `force`: it
    is repeated where it is done. `resume`: an interrupted one goes on.
    """

    datasets: Sequence[str]
    folders: Sequence[Path]
    meta: Path | None
    backbone: BackboneConfig
    options: MethodConfig
    recipe: Recipe
    max_pixels: int
    save_every: tuple[int | None, float | None]
    device: str
    precision: str
    threads: int | None
    workers: int | None
    force: bool
    resume: bool


@dataclass(frozen=True)
class Begun:
    """A training before its first step: the backbone and how to load it in another precision, what is trained
    from, and where an interrupted run stood."""

    plan: TrainingPlan
    backbone: Backbone
    load: Callable[[torch.dtype], Backbone]
    training_set: TrainingSet
    state: TrainingState
    saved: SavedTraining | None


def begin(plan: TrainingPlan, unfinished: Path) -> Begun:
    """Reads everything that a training begins with; nothing is written. `unfinished`: the file of its saved
    states."""
    seed_everything(plan.recipe.seed)
    use_threads(plan.threads)
    device = choose_device(plan.device)
    dtype = choose_precision(plan.precision, device)
    make_repeatable(device)

    training_set = open_training_set(plan)
    data = training_set.digest()
    warn_of_untrained(plan.backbone)

    def load(precision: torch.dtype) -> Backbone:
        return backbone_of(plan.backbone, device, precision)

    backbone = load(dtype)
    recipe = plan.recipe
    if not recipe.epochs:
        recipe = replace(recipe, epochs=math.ceil(SYNTHETIC_IMAGES / len(training_set.records)))
    machine = machine_facts(device, dtype)
    training = TrainingSettings(recipe, training_set.images_digest(), data, training_set.images, machine)
    dataset = SEVERAL.join(plan.datasets)
    config = TrainedWith(plan.backbone, plan.options, backbone.fingerprint, dataset, training)
    state = TrainingState(unfinished, config, data)
    return Begun(plan, backbone, load, training_set, state, read_unfinished(state) if plan.resume else None)


def read_unfinished(state: TrainingState) -> SavedTraining | None:
    """The unfinished training of these settings and images, or None; one of others is a ConfigError, not
    overwritten."""
    if not state.file.exists():
        return None
    saved = state.read()
    if changed := differences(saved.config, state.config):
        raise ConfigError(
            f"{state.file} holds an unfinished training with another {', '.join(changed)} (after step "
            f"{saved.position.step}); finish it with its own settings, or start anew with --no-resume."
        )
    if saved.data != state.data:
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


def facts_of(begun: Begun) -> dict[str, Any]:
    """What must be the same in every process of a training."""
    config, saved = begun.state.config, begun.saved
    machine = config.training.machine
    same = {name: getattr(machine, name) for name in ("device_name", "precision", "torch")}
    place = None if saved is None else saved.position.step
    return {**config.identity(), **same, "files": begun.state.data, "unfinished training": place}


def open_training_set(plan: TrainingPlan) -> TrainingSet:
    """The training set of the datasets."""
    recipe = plan.recipe
    shots = 0 if plan.options.fd == "none" else recipe.k_shot
    parts = []
    for dataset, folder in zip(plan.datasets, plan.folders, strict=True):
        catalogue = open_catalogue(dataset, folder, plan.meta)
        logger.info("%s", describe_catalogue(catalogue, dataset))
        parts.append(draw_training_set(catalogue, shots, recipe.seed, dataset, recipe.synthetic))
    training_set = parts[0] if len(parts) == 1 else join_training_sets(parts)
    training_set.check_masks(plan.max_pixels)
    return training_set


def warn_of_untrained(encoder: BackboneConfig) -> None:
    if encoder.untrained:
        logger.warning(
            "The backbone is untrained (--pretrained none): its features are random projections. "
            "Results show that everything runs, not how good the method is."
        )
