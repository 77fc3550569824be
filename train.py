"""Fits FDSL's heads on one labelled dataset, over a frozen backbone.

    python train.py --dataset visa --data-path data/visa --model-name fdsl

The training data are the dataset's *test* images (they have masks); each looks its nearest normal tokens up
in its own category's memory bank. Writes CHECKPOINTS/MODEL/DATASET.safetensors, named by the training set. A
training that was interrupted, however it was, goes on with the same command and ends in the same weights.
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.train"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer(at_once=True)

import argparse
import logging
from pathlib import Path

import torch

from data.catalogue import describe_catalogue, open_catalogue
from data.records import Catalogue
from fdsl.assembly import load_tower
from fdsl.fitting import LOSS_COLUMNS, fit, read_unfinished
from fdsl.flags.train_flags import parse, recipe
from fdsl.report.loss_curve import write_loss_curve
from fdsl.settings import backbone_config, method_config
from fdsl.store.checkpoint import is_trained, save_checkpoint
from fdsl.store.training_state import TrainingState
from fdsl.training import DiscrepancySource
from fdsl.training_config import TrainedWith, TrainingSettings
from fdsl.training_set import TrainingSet, draw_training_set
from models.backbone import Backbone
from models.methods.fdsl import Fdsl
from utils.command import run_command
from utils.config import BackboneConfig, MachineFacts, checkpoint_path
from utils.device import choose_device, choose_precision, machine_facts, make_repeatable, seed_everything
from utils.errors import ConfigError, DataError, ModelError
from utils.files import csv_text, remove_leftovers, write_text
from utils.lock import locked
from utils.log import start_logging
from utils.signals import command_line

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv, __doc__)
    target = checkpoint_path(args.checkpoints, args.model_name, args.dataset)
    lock = target.with_name(f".{target.stem}.lock")
    with locked(lock, str(target), "name another folder with --checkpoints"):
        train(args, target)


def train(args: argparse.Namespace, target: Path) -> None:
    """From the settings to the checkpoint `target`; what an interrupted run has done is not done again."""
    loss_table, loss_curve = target.with_suffix(".loss.csv"), target.with_suffix(".loss.png")
    unfinished = target.with_suffix(".unfinished.safetensors")
    remove_leftovers(target, loss_table, loss_curve, unfinished)
    start_logging(target.with_suffix(".log.txt"))
    logger.info("%s", command_line())
    seed_everything(args.seed)
    device = choose_device(args.device)
    options, tower = method_config(vars(args)), backbone_config(vars(args))
    dtype = choose_precision(args.precision, device)
    make_repeatable(device)

    catalogue, learnt = open_training_set(args, needs_references=options.fd != "none")
    data = learnt.digest()
    warn_of_untrained(tower)

    def load(precision: torch.dtype) -> Backbone:
        return load_tower(tower, device, precision)

    backbone = load(dtype)
    training = training_settings(args, catalogue, learnt, data, machine_facts(device, dtype))
    config = TrainedWith(tower, options, backbone.fingerprint, args.dataset, training)
    state = TrainingState(unfinished, config, data, len(LOSS_COLUMNS))
    saved = read_unfinished(state) if args.resume else None
    if saved is None and not args.force and is_trained(target, config):
        logger.info("%s is trained with these settings already (--force trains it again).", target)
        return
    learnt.warn_of_duplicates()
    torch.manual_seed(args.seed)
    method = Fdsl(backbone.width, len(backbone.layers), options).to(device)
    source = DiscrepancySource(
        load, backbone, options, learnt.root, learnt.references, tower.image_size, args.max_pixels
    )
    position = fit(method, source, learnt, state, saved, recipe(args))
    save_checkpoint(target, method.state_dict(), state.config)
    write_text(loss_table, csv_text(LOSS_COLUMNS, position.rows))
    write_loss_curve(loss_curve, position.rows)
    state.discard()
    logger.info("wrote %s, its loss in %s", target, loss_table.name)


def open_training_set(args: argparse.Namespace, needs_references: bool) -> tuple[Catalogue, TrainingSet]:
    """The dataset of the flags, and what of it is learnt from."""
    catalogue = open_catalogue(args.dataset, args.data_path, args.meta)
    logger.info("%s", describe_catalogue(catalogue, args.dataset))
    shots = args.k_shot if needs_references else 0
    return catalogue, draw_training_set(catalogue, shots, args.seed, args.dataset)


def warn_of_untrained(tower: BackboneConfig) -> None:
    if tower.untrained:
        logger.warning(
            "The backbone is untrained (--pretrained none): its features are random projections. "
            "Results show that everything runs, not how good the method is."
        )


def training_settings(
    args: argparse.Namespace, catalogue: Catalogue, learnt: TrainingSet, data: str, machine: MachineFacts
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
        images={category: len(part) for category, part in catalogue.test.items()},
        machine=machine,
    )


def command() -> None:
    """The command line of train.py and of fdsl-train."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
