"""A training before its first step: what train.py's flags ask for, and where an interrupted one stood."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.catalogue import describe_catalogue, open_catalogue
from fdsl.assembly import load_tower
from fdsl.fitting import LOSS_COLUMNS, read_unfinished
from fdsl.settings import backbone_config, method_config
from fdsl.store.training_state import SavedTraining, TrainingState
from fdsl.training_config import TrainedWith, TrainingSettings
from fdsl.training_set import TrainingSet, draw_training_set, join_training_sets
from models.backbone import Backbone
from utils.config import SYNTHETIC_IMAGES, BackboneConfig, MachineFacts
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
class Begun:
    """A training before its first step: the backbone and how to load it in another precision, what is learnt
    from, and where an interrupted run stood."""

    backbone: Backbone
    load: Callable[[torch.dtype], Backbone]
    learnt: TrainingSet
    state: TrainingState
    saved: SavedTraining | None


def begin(args: argparse.Namespace, unfinished: Path) -> Begun:
    """Reads everything that a training begins with; nothing is written."""
    seed_everything(args.seed)
    use_threads(args.threads)
    device = choose_device(args.device)
    options, tower = method_config(vars(args)), backbone_config(vars(args))
    dtype = choose_precision(args.precision, device)
    make_repeatable(device)

    learnt = open_training_set(args, needs_references=options.fd != "none")
    args.epochs = args.epochs or math.ceil(SYNTHETIC_IMAGES / len(learnt.records))
    data = learnt.digest()
    warn_of_untrained(tower)

    def load(precision: torch.dtype) -> Backbone:
        return load_tower(tower, device, precision)

    backbone = load(dtype)
    training = training_settings(args, learnt, data, machine_facts(device, dtype))
    config = TrainedWith(tower, options, backbone.fingerprint, args.dataset, training)
    state = TrainingState(unfinished, config, data, len(LOSS_COLUMNS))
    return Begun(backbone, load, learnt, state, read_unfinished(state) if args.resume else None)


def facts_of(begun: Begun) -> dict[str, Any]:
    """What must be the same in every process of a training."""
    config, saved = begun.state.config, begun.saved
    machine = config.training.machine
    same = {name: getattr(machine, name) for name in ("device_name", "precision", "torch")}
    place = None if saved is None else saved.position.step
    return {**config.identity(), **same, "files": begun.state.data, "unfinished training": place}


def open_training_set(args: argparse.Namespace, needs_references: bool) -> TrainingSet:
    """What is learnt from of the datasets of the flags."""
    shots = args.k_shot if needs_references else 0
    parts = []
    for dataset, folder in zip(args.datasets, args.data_path, strict=True):
        catalogue = open_catalogue(dataset, folder, args.meta)
        logger.info("%s", describe_catalogue(catalogue, dataset))
        parts.append(draw_training_set(catalogue, shots, args.seed, dataset, args.synthetic))
    learnt = parts[0] if len(parts) == 1 else join_training_sets(parts)
    learnt.refuse_other_sizes(args.max_pixels)
    return learnt


def warn_of_untrained(tower: BackboneConfig) -> None:
    if tower.untrained:
        logger.warning(
            "The backbone is untrained (--pretrained none): its features are random projections. "
            "Results show that everything runs, not how good the method is."
        )


def training_settings(
    args: argparse.Namespace, learnt: TrainingSet, data: str, machine: MachineFacts
) -> TrainingSettings:
    """What a checkpoint says of its training."""
    return TrainingSettings(
        epochs=args.epochs,
        k_shot=args.k_shot,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        augmentation=args.augmentation,
        seed=args.seed,
        learnt=learnt.images_digest(),
        files=data,
        images=learnt.images,
        machine=machine,
    )
