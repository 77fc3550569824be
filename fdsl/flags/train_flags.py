"""train.py's flags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fdsl.config.contradictions import OF_TRAINING, broken
from fdsl.config.training_config import Recipe, TrainingPlan
from fdsl.flags.groups import add_options, read
from utils.command_line import CommandLine
from utils.config import BackboneConfig, MethodConfig, RuntimeOptions

COMMON = (  # what --help shows
    *("dataset", "data-path", "model-name", "checkpoints", "epochs", "batch-size", "augmentation", "seed"),
    *("model", "pretrained", "device"),
)


def parse(argv: list[str] | None, description: str | None) -> TrainingPlan:
    """Reads and checks the command line."""
    parser = CommandLine(description, common=COMMON)
    add_options(parser, Recipe, TrainingPlan)
    add_options(parser, MethodConfig, only=lambda one: one.trained)
    add_options(parser, BackboneConfig, RuntimeOptions)
    args = parser.parse_args(argv)
    plan = read(TrainingPlan, args)
    if plan.data_path is None:
        plan = replace(plan, data_path=[Path("data") / name for name in plan.dataset])
    if problem := broken(OF_TRAINING, plan):
        parser.error(problem)
    if args.fd == "none":
        parser.refuse_without_effect("--fd none, whose heads see no references", ("align", "k-shot"))
    parser.save_settings(args)
    return plan
