"""train.py after its flags: from the training set to the checkpoint and its loss curve."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from fdsl.report.loss_curve import write_loss_curve
from fdsl.store.checkpoint import is_trained, save_checkpoint
from fdsl.store.training_state import LOSS_COLUMNS
from fdsl.training.loop import fit
from fdsl.training.setup import PreparedTraining
from utils.console import start_logging
from utils.files import csv_text, remove_leftovers, write_text
from utils.lock import locked
from utils.signals import command_line
from utils.world import World

logger = logging.getLogger("fdsl")
# Suffixes of the files next to a checkpoint.
LOSS_TABLE, LOSS_CURVE, UNFINISHED = ".loss.csv", ".loss.png", ".unfinished.safetensors"


def take(target: Path, held: contextlib.ExitStack) -> None:
    """Locks the checkpoint's path until `held` is closed, and starts the log."""
    lock = target.with_name(f".{target.stem}.lock")
    held.enter_context(locked(lock, str(target), "name another folder with --checkpoints"))
    remove_leftovers(target, *(target.with_suffix(suffix) for suffix in (LOSS_TABLE, LOSS_CURVE, UNFINISHED)))
    start_logging(target.with_suffix(".log.txt"))
    logger.info("%s", command_line())


def train_heads(prepared: PreparedTraining, target: Path, world: World) -> None:
    """Trains the heads and writes the checkpoint `target`, unless it exists; resumes an interrupted
    training."""
    state = prepared.state
    if prepared.saved is None and not prepared.plan.force and is_trained(target, state.config):
        logger.info("%s is trained with these settings already (--force trains it again).", target)
        return
    prepared.training_set.warn_of_duplicates()
    method, position = fit(prepared, world)
    if not world.is_first:
        return
    save_checkpoint(target, method.state_dict(), state.config)
    table = target.with_suffix(LOSS_TABLE)
    write_text(table, csv_text(LOSS_COLUMNS, position.rows))
    write_loss_curve(target.with_suffix(LOSS_CURVE), position.rows)
    state.discard()
    logger.info("wrote %s, its loss in %s", target, table.name)
