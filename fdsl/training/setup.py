"""A training before its first step: what was asked for, and where an interrupted one stood."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.catalogue import describe_catalogue, open_catalogue
from fdsl.config.training_config import TrainedWith, TrainingSettings
from fdsl.factory import load_tower
from fdsl.store.training_state import SavedTraining, TrainingState
from fdsl.training.loop import LOSS_COLUMNS, read_unfinished
from fdsl.training.training_set import TrainingSet, draw_training_set, join_training_sets
from models.backbone import Backbone
from utils.config import SEVERAL, SYNTHETIC_IMAGES, BackboneConfig, MachineFacts, MethodConfig
from utils.device import (
    choose_device,
    choose_precision,
    machine_facts,
    make_repeatable,
    seed_everything,
    use_threads,
)

logger = logging.getLogger("fdsl")


@dataclass(frozen=True)
class TrainingPlan:
    """What is asked of a training, before anything is read.

    `folders`: of the `datasets`; `meta`: a meta.json that lies elsewhere. `synthetic`: a name of SYNTHETIC,
    None: no synthetic defects. `epochs`: None: by the number of images. `save_every`: (steps, None) or (None,
    seconds) between two saved states. `threads`, `workers`: None: by the cores there are. `force`: it is
    repeated where it is done. `resume`: an interrupted one goes on.
    """

    datasets: Sequence[str]
    folders: Sequence[Path]
    meta: Path | None
    backbone: BackboneConfig
    options: MethodConfig
    synthetic: str | None
    epochs: int | None
    k_shot: int
    batch_size: int
    learning_rate: float
    augmentation: str
    seed: int
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
    seed_everything(plan.seed)
    use_threads(plan.threads)
    device = choose_device(plan.device)
    dtype = choose_precision(plan.precision, device)
    make_repeatable(device)

    training_set = open_training_set(plan)
    data = training_set.digest()
    warn_of_untrained(plan.backbone)

    def load(precision: torch.dtype) -> Backbone:
        return load_tower(plan.backbone, device, precision)

    backbone = load(dtype)
    training = training_settings(plan, training_set, data, machine_facts(device, dtype))
    dataset = SEVERAL.join(plan.datasets)
    config = TrainedWith(plan.backbone, plan.options, backbone.fingerprint, dataset, training)
    state = TrainingState(unfinished, config, data, len(LOSS_COLUMNS))
    return Begun(plan, backbone, load, training_set, state, read_unfinished(state) if plan.resume else None)


def facts_of(begun: Begun) -> dict[str, Any]:
    """What must be the same in every process of a training."""
    config, saved = begun.state.config, begun.saved
    machine = config.training.machine
    same = {name: getattr(machine, name) for name in ("device_name", "precision", "torch")}
    place = None if saved is None else saved.position.step
    return {**config.identity(), **same, "files": begun.state.data, "unfinished training": place}


def open_training_set(plan: TrainingPlan) -> TrainingSet:
    """The training set of the datasets."""
    shots = 0 if plan.options.fd == "none" else plan.k_shot
    parts = []
    for dataset, folder in zip(plan.datasets, plan.folders, strict=True):
        catalogue = open_catalogue(dataset, folder, plan.meta)
        logger.info("%s", describe_catalogue(catalogue, dataset))
        parts.append(draw_training_set(catalogue, shots, plan.seed, dataset, plan.synthetic))
    training_set = parts[0] if len(parts) == 1 else join_training_sets(parts)
    training_set.check_masks(plan.max_pixels)
    return training_set


def warn_of_untrained(tower: BackboneConfig) -> None:
    if tower.untrained:
        logger.warning(
            "The backbone is untrained (--pretrained none): its features are random projections. "
            "Results show that everything runs, not how good the method is."
        )


def training_settings(
    plan: TrainingPlan, training_set: TrainingSet, data: str, machine: MachineFacts
) -> TrainingSettings:
    """What a checkpoint says of its training."""
    return TrainingSettings(
        epochs=plan.epochs or math.ceil(SYNTHETIC_IMAGES / len(training_set.records)),
        k_shot=plan.k_shot,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        augmentation=plan.augmentation,
        seed=plan.seed,
        image_digests=training_set.images_digest(),
        files=data,
        images=training_set.images,
        machine=machine,
    )
