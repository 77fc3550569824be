"""Fitting the heads, step by step: from where an interrupted training stood to the last epoch."""

from __future__ import annotations

import logging

import torch

from data.dataset import TrainingDataset
from fdsl.store.training_state import Position, TrainingState
from fdsl.training.batches import Batches, Prepared
from fdsl.training.setup import Begun
from fdsl.training.step import DiscrepancySource, HeadsStep
from models.backbones.weights_io.check_weights import fingerprint
from models.methods.fdsl import Fdsl
from utils.errors import ModelError
from utils.log import progress
from utils.signals import how_to_continue
from utils.text import printable
from utils.world import World

logger = logging.getLogger("fdsl")
ADAM_BETAS = (0.5, 0.999)


def fit(begun: Begun, world: World = World()) -> tuple[Fdsl, Position]:  # noqa: B008 - frozen
    """The heads trained by the recipe of `begun`, from where an interrupted training stood on, and the
    position that they end at, which has a LOSS_COLUMNS row per step.

    Of the processes of a `world` each prepares its part of the batches and finds the gradients of its part of
    the heads, all take every step, and the first keeps the state.
    """
    plan, training_set, state, saved = begun.plan, begun.training_set, begun.state, begun.saved
    recipe, backbone = state.config.training.recipe, begun.backbone
    torch.manual_seed(recipe.seed)
    method = Fdsl(backbone.width, len(backbone.layers), plan.options).to(backbone.device)
    source = DiscrepancySource(begun)
    optimizer = torch.optim.Adam(method.parameters(), lr=recipe.learning_rate, betas=ADAM_BETAS)
    position = saved.restore(method, optimizer) if saved else Position()
    if saved and saved.precision != source.precision:
        source.use_float32()
    dataset = TrainingDataset(
        training_set.root,
        training_set.records,
        source.image_size,
        recipe.augmentation,
        recipe.seed,
        plan.max_pixels,
    )
    batches = Batches(dataset, source, recipe.batch_size, recipe.seed, plan.workers, world)
    step = HeadsStep(method, optimizer, world)
    method.train()
    while position.epoch < recipe.epochs:
        what = f"epoch {position.epoch + 1}/{recipe.epochs}"
        left = len(dataset) - position.batch * recipe.batch_size
        prepared = batches.of(position.epoch, position.batch)
        for batch in progress(prepared, left, what, _images, lambda: f"loss {position.rows[-1][2]:.4f}"):
            found = step(batch.features, batch.mask)
            with world.same_everywhere():
                take_step(step, batch, found, position, state)
            if world.is_first and state.due(position.step, plan.save_every):
                keep(state, step, position, source.precision)
        log_loss(what, position)
        with world.same_everywhere():
            refuse_drift(world, method, position)
        position.epoch, position.batch = position.epoch + 1, 0
        if world.is_first:
            keep(state, step, position, source.precision)
    return method, position


def _images(batch: Prepared) -> int:
    return len(batch.paths)


def refuse_drift(world: World, method: Fdsl, position: Position) -> None:
    """ModelError unless the heads' weights are the same in every process."""
    found = world.gathered(fingerprint(method.state_dict())) if world.joined else []
    if any(one != found[0] for one in found):
        raise ModelError(
            f"The processes have come to different weights after step {position.step}; start them on "
            "machines of one kind, with the same packages."
        )


def take_step(
    step: HeadsStep, batch: Prepared, found: tuple[float, float], position: Position, state: TrainingState
) -> None:
    """One optimizer step and its row of losses, which `step` has found; ModelError, before the weights are
    touched, where the loss is not finite."""
    number = position.step + 1
    focal, dice = found
    if not step.finite:
        raise ModelError(
            f"The loss is not finite at step {number} (images {printable(', '.join(batch.paths))}); "
            f"check these files, or lower --learning-rate; {state.kept()}."
        )
    step.optimizer.step()
    position.rows.append((number, position.epoch + 1, focal + dice, focal, dice))
    logger.debug("step %d: loss %.4f (focal %.4f, dice %.4f)", number, focal + dice, focal, dice)
    position.batch += 1


def keep(state: TrainingState, step: HeadsStep, position: Position, precision: str) -> None:
    """Saves the state, from which the same command goes on."""
    state.config = state.config.in_precision(precision)
    state.save(step.method, step.optimizer, position, precision)
    how_to_continue(f"the same command goes on after step {position.step}")


def log_loss(what: str, position: Position) -> None:
    """Logs the mean losses of the epoch that is done."""
    done = [row for row in position.rows if row[1] == position.epoch + 1]
    mean = [sum(column) / len(column) for column in zip(*(row[2:] for row in done))]
    logger.info("%s: loss %.4f (focal %.4f, dice %.4f)", what, *mean)
