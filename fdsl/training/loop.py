"""The training loop: it fits the heads, from the position of an interrupted training to the last epoch."""

from __future__ import annotations

import logging

import torch

from data.dataset import TrainingDataset
from fdsl.store.training_state import Position, TrainingState
from fdsl.training.batches import Batches, Prepared
from fdsl.training.setup import PreparedTraining
from fdsl.training.step import DiscrepancySource, HeadsStep
from models.backbones.weights_io.check_weights import fingerprint
from models.methods.fdsl import Fdsl
from utils.console import progress
from utils.errors import ModelError
from utils.signals import how_to_continue
from utils.text import printable
from utils.world import World

logger = logging.getLogger("fdsl")
ADAM_BETAS = (0.5, 0.999)


def fit(prepared: PreparedTraining, world: World = World()) -> tuple[Fdsl, Position]:  # noqa: B008 - frozen
    """The heads, trained by the recipe from the position of an interrupted training on, and the final
    position, which has a LOSS_COLUMNS row per step.

    Each process of a `world` prepares its share of the batches; all take every step, and the first saves the
    state.
    """
    plan, training_set, state, saved = prepared.plan, prepared.training_set, prepared.state, prepared.saved
    recipe, backbone = state.config.training.recipe, prepared.backbone
    torch.manual_seed(recipe.seed)
    method = Fdsl(backbone.width, len(backbone.layers), plan.options).to(backbone.device)
    source = DiscrepancySource(prepared)
    optimizer = torch.optim.Adam(method.parameters(), lr=recipe.learning_rate, betas=ADAM_BETAS)
    position = saved.restore(method, optimizer) if saved else Position()
    if saved and saved.precision != source.precision:
        source.use_float32()
    dataset = TrainingDataset(
        training_set.root, training_set.records, source.image_size, recipe.augmentation, recipe.seed
    )
    batches = Batches(dataset, source, recipe.batch_size, recipe.seed, plan.workers, world)
    step = HeadsStep(method, optimizer)
    method.train()
    while position.epoch < recipe.epochs:
        what = f"epoch {position.epoch + 1}/{recipe.epochs}"
        remaining = len(dataset) - position.batch * recipe.batch_size
        epoch = batches.of(position.epoch, position.batch)
        for batch in progress(epoch, remaining, what, _images, lambda: f"loss {position.rows[-1][2]:.4f}"):
            losses = step(batch.features, batch.mask)
            with world.same_everywhere():
                take_step(step, batch, losses, position, state)
            if world.is_first and state.due(position.step, plan.save_every):
                save_state(state, step, position, source.precision)
        log_loss(what, position)
        with world.same_everywhere():
            refuse_different_weights(world, method, position)
        position.epoch, position.batch = position.epoch + 1, 0
        if world.is_first:
            save_state(state, step, position, source.precision)
    return method, position


def _images(batch: Prepared) -> int:
    return len(batch.paths)


def refuse_different_weights(world: World, method: Fdsl, position: Position) -> None:
    """ModelError unless the heads' weights are the same in every process."""
    if world.joined and len(set(world.gathered(fingerprint(method.state_dict())))) > 1:
        raise ModelError(
            f"The processes have different weights after step {position.step}; start them on machines of one "
            "kind, with the same packages."
        )


def take_step(
    step: HeadsStep, batch: Prepared, losses: tuple[float, float], position: Position, state: TrainingState
) -> None:
    """Takes an optimizer step and appends its row of losses; ModelError, with the weights unchanged, where
    the loss is not finite."""
    number = position.step + 1
    focal, dice = losses
    if not step.finite:
        raise ModelError(
            f"The loss is not finite at step {number} (images {printable(', '.join(batch.paths))}); "
            f"check these files, or lower --learning-rate; {state.last_saved()}."
        )
    step.optimizer.step()
    position.rows.append((number, position.epoch + 1, focal + dice, focal, dice))
    logger.debug("step %d: loss %.4f (focal %.4f, dice %.4f)", number, focal + dice, focal, dice)
    position.batch += 1


def save_state(state: TrainingState, step: HeadsStep, position: Position, precision: str) -> None:
    """Saves the state, from which the same command goes on."""
    state.config = state.config.in_precision(precision)
    state.save(step.method, step.optimizer, position, precision)
    how_to_continue(f"the same command goes on after step {position.step}")


def log_loss(what: str, position: Position) -> None:
    """Logs the mean losses of the finished epoch."""
    rows = [row[2:] for row in position.rows if row[1] == position.epoch + 1]
    mean = [sum(column) / len(column) for column in zip(*rows)]
    logger.info("%s: loss %.4f (focal %.4f, dice %.4f)", what, *mean)
