"""Fits FDSL's heads on one labelled dataset, over a frozen backbone.

    python train.py --dataset visa --data-path data/visa --model-name fdsl

The training data are the dataset's *test* images (they have masks); their tokens are matched with the memory
bank of their own category. Writes CHECKPOINTS/MODEL/DATASET.safetensors, named by the training set. The same
command continues an interrupted training, however it ended, and gives the same weights.
Several datasets after --dataset are trained on together. Several processes share the backbone's work and end
in the same weights too:

    torchrun --standalone --nproc-per-node 8 train.py --dataset visa
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.train"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer()

import contextlib
import logging

from fdsl.flags.train_flags import parse
from utils.command import run_command
from utils.config import checkpoint_path
from utils.world import connected, find_world

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> None:
    plan = parse(argv, __doc__)
    target = checkpoint_path(plan.checkpoints, plan.model_name, plan.trained_on)
    logger.info("loading the image model ...")
    from fdsl.commands.train_heads import UNFINISHED, take, train_heads
    from fdsl.training.setup import facts_of, prepare

    with connected(find_world()) as world, contextlib.ExitStack() as held:
        restarted = world.restarted()
        world.agree(lambda: take(target, held) if world.is_first else None)
        unfinished = target.with_suffix(UNFINISHED)
        prepared = world.agree(lambda: prepare(plan, unfinished, restarted), facts_of)
        train_heads(prepared, target, world)


def command() -> None:
    """The command line of train.py and of fdsl-train."""
    run_command(main)


if __name__ == "__main__":
    command()
