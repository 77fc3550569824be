"""Fits FDSL's heads on one labelled dataset, over a frozen backbone.

    python train.py --dataset visa --data-path data/visa --model-name fdsl

The training data are the dataset's *test* images (they have masks); each looks its nearest normal tokens up
in its own category's memory bank. Writes CHECKPOINTS/MODEL/DATASET.safetensors, named by the training set. A
training that was interrupted, however it was, goes on with the same command and ends in the same weights.
Several datasets after --dataset are learnt from together. Several processes share the backbone's work and end
in the same weights too:

    torchrun --standalone --nproc-per-node 8 train.py --dataset visa
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.train"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer(at_once=True)

import argparse
import contextlib
import logging
from pathlib import Path

import torch

from fdsl.begun_training import begin, facts_of
from fdsl.fitting import LOSS_COLUMNS, fit
from fdsl.flags.train_flags import parse
from fdsl.report.loss_curve import write_loss_curve
from fdsl.store.checkpoint import is_trained, save_checkpoint
from fdsl.training import DiscrepancySource
from models.methods.fdsl import Fdsl
from utils.command import run_command
from utils.config import checkpoint_path
from utils.errors import ConfigError, DataError, ModelError
from utils.files import csv_text, remove_leftovers, write_text
from utils.lock import locked
from utils.log import start_logging
from utils.signals import command_line
from utils.world import World, connected, find_world

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv, __doc__)
    target = checkpoint_path(args.checkpoints, args.model_name, args.dataset)
    lock = target.with_name(f".{target.stem}.lock")
    with connected(find_world()) as world, contextlib.ExitStack() as held:
        args.resume = world.restarted() or args.resume

        def hold() -> None:
            if world.is_first:
                held.enter_context(locked(lock, str(target), "name another folder with --checkpoints"))

        world.agree(hold)
        train(args, target, world)


def train(args: argparse.Namespace, target: Path, world: World) -> None:
    """From the settings to the checkpoint `target`; what an interrupted run has done is not done again."""
    loss_table, loss_curve = target.with_suffix(".loss.csv"), target.with_suffix(".loss.png")
    unfinished = target.with_suffix(".unfinished.safetensors")
    if world.is_first:
        remove_leftovers(target, loss_table, loss_curve, unfinished)
        start_logging(target.with_suffix(".log.txt"))
        logger.info("%s", command_line())
    begun = world.agree(lambda: begin(args, unfinished), facts_of)
    state, saved, learnt = begun.state, begun.saved, begun.learnt
    if saved is None and not args.force and is_trained(target, state.config):
        logger.info("%s is trained with these settings already (--force trains it again).", target)
        return
    learnt.warn_of_duplicates()
    torch.manual_seed(args.seed)
    backbone, options = begun.backbone, state.config.options
    method = Fdsl(backbone.width, len(backbone.layers), options).to(backbone.device)
    source = DiscrepancySource(
        begun.load,
        backbone,
        options,
        learnt.root,
        learnt.references,
        state.config.backbone.image_size,
        args.max_pixels,
    )
    position = fit(
        method,
        source,
        learnt,
        state,
        saved,
        save_every=args.save_every,
        workers=args.workers,
        max_pixels=args.max_pixels,
        world=world,
    )
    if not world.is_first:
        return
    save_checkpoint(target, method.state_dict(), state.config)
    write_text(loss_table, csv_text(LOSS_COLUMNS, position.rows))
    write_loss_curve(loss_curve, position.rows)
    state.discard()
    logger.info("wrote %s, its loss in %s", target, loss_table.name)


def command() -> None:
    """The command line of train.py and of fdsl-train."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
