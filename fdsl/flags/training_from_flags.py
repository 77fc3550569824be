"""The training that train.py's flags ask for."""

from __future__ import annotations

import argparse
from dataclasses import fields

from fdsl.config.resolve import backbone_config, method_config
from fdsl.config.training_config import Recipe
from fdsl.training.setup import TrainingPlan


def plan_of(args: argparse.Namespace, restarted: bool) -> TrainingPlan:
    """The training of the flags; `restarted`: the command is started again, so it goes on. ConfigError for a
    backbone that cannot be."""
    values = vars(args)
    same = {field.name: values[field.name] for field in fields(TrainingPlan) if field.name in values}
    return TrainingPlan(
        **{
            **same,
            "folders": args.data_path,
            "backbone": backbone_config(values),
            "options": method_config(values),
            "recipe": Recipe.of(values, args.dataset),
            "resume": args.resume or restarted,
        }
    )
