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

import contextlib
import logging
from pathlib import Path

import torch

from fdsl.flags.train_flags import parse, plan_of
from fdsl.report.loss_curve import write_loss_curve
from fdsl.store.checkpoint import is_trained, save_checkpoint
from fdsl.training.loop import LOSS_COLUMNS, fit
from fdsl.training.setup import Begun, begin, facts_of
from fdsl.training.step import DiscrepancySource
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
# What lies beside a checkpoint.
LOSS_TABLE, LOSS_CURVE, UNFINISHED = ".loss.csv", ".loss.png", ".unfinished.safetensors"


def main(argv: list[str] | None = None) -> None:
    args = parse(argv, __doc__)
    target = checkpoint_path(args.checkpoints, args.model_name, args.dataset)
    with connected(find_world()) as world, contextlib.ExitStack() as held:
        restarted = world.restarted()
        world.agree(lambda: take(target, held) if world.is_first else None)
        unfinished = target.with_suffix(UNFINISHED)
        begun = world.agree(lambda: begin(plan_of(args, restarted), unfinished), facts_of)
        train(begun, target, world)


def take(target: Path, held: contextlib.ExitStack) -> None:
    """Takes the checkpoint's place until `held` is closed, and begins the log."""
    lock = target.with_name(f".{target.stem}.lock")
    held.enter_context(locked(lock, str(target), "name another folder with --checkpoints"))
    remove_leftovers(target, *(target.with_suffix(suffix) for suffix in (LOSS_TABLE, LOSS_CURVE, UNFINISHED)))
    start_logging(target.with_suffix(".log.txt"))
    logger.info("%s", command_line())


def train(begun: Begun, target: Path, world: World) -> None:
    """From the settings to the checkpoint `target`; what an interrupted run has done is not done again."""
    plan, state, saved, learnt = begun.plan, begun.state, begun.saved, begun.learnt
    if saved is None and not plan.force and is_trained(target, state.config):
        logger.info("%s is trained with these settings already (--force trains it again).", target)
        return
    learnt.warn_of_duplicates()
    torch.manual_seed(plan.seed)
    backbone, options = begun.backbone, state.config.options
    method = Fdsl(backbone.width, len(backbone.layers), options).to(backbone.device)
    source = DiscrepancySource(
        begun.load,
        backbone,
        options,
        learnt.root,
        learnt.references,
        state.config.backbone.image_size,
        plan.max_pixels,
    )
    position = fit(
        method,
        source,
        learnt,
        state,
        saved,
        save_every=plan.save_every,
        workers=plan.workers,
        max_pixels=plan.max_pixels,
        world=world,
    )
    if not world.is_first:
        return
    save_checkpoint(target, method.state_dict(), state.config)
    table = target.with_suffix(LOSS_TABLE)
    write_text(table, csv_text(LOSS_COLUMNS, position.rows))
    write_loss_curve(target.with_suffix(LOSS_CURVE), position.rows)
    state.discard()
    logger.info("wrote %s, its loss in %s", target, table.name)


def command() -> None:
    """The command line of train.py and of fdsl-train."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
