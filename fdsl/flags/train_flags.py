"""train.py's flags."""

from __future__ import annotations

import argparse
from pathlib import Path

from data.datasets import DATASETS
from fdsl.config.training_config import Recipe
from fdsl.flags.groups import add_max_pixels, add_options, add_runtime_flags
from utils.arguments import name_part, save_interval
from utils.command_line import CommandLine
from utils.config import SEVERAL, BackboneConfig, MethodConfig

COMMON = (  # what --help shows
    *("dataset", "data-path", "model-name", "checkpoints", "epochs", "batch-size", "augmentation", "seed"),
    *("model", "pretrained", "device"),
)


def parse(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Reads and checks the command line; what is published for the dataset is filled in."""
    parser = CommandLine(description, common=COMMON)
    parser.add_argument(
        "--dataset", choices=DATASETS, nargs="+", required=True, help="one, or several to learn from together"
    )
    parser.add_argument(
        "--data-path", type=Path, nargs="+", help="a folder for each dataset (default data/DATASET)"
    )
    parser.add_argument(
        "--meta", type=Path, metavar="FILE", help="meta.json elsewhere than in the dataset's folder"
    )
    parser.add_argument("--model-name", type=name_part, default="fdsl", help="names checkpoints and results")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("checkpoints"),
        metavar="DIR",
        help="folder of all trained heads (default checkpoints)",
    )
    add_training_flags(parser)
    add_max_pixels(parser)
    add_options(parser, MethodConfig, lambda one: one.trained)
    add_options(parser, BackboneConfig)
    add_runtime_flags(parser)
    args = parser.parse_args(argv)
    args.datasets, args.dataset = args.dataset, SEVERAL.join(args.dataset)
    args.data_path = args.data_path or [Path("data") / name for name in args.datasets]
    refuse_other_folders(parser, args)
    if args.fd == "none":
        parser.refuse_without_effect("--fd none, whose heads see no references", ("align", "k-shot"))
    parser.save_settings(args)
    return args


def refuse_other_folders(parser: CommandLine, args: argparse.Namespace) -> None:
    """Several datasets have a folder each, and none is given twice."""
    names = args.datasets
    if len(args.data_path) != len(names):
        parser.error(f"--data-path: {len(names)} dataset(s) have {len(args.data_path)} folder(s)")
    if len({path.resolve() for path in args.data_path}) < len(names) or len(set(names)) < len(names):
        parser.error("--dataset and --data-path: each dataset and each folder is given once")
    if args.meta and len(names) > 1:
        parser.error("--meta goes with one dataset")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """How the heads learn, and what becomes of an interrupted training."""
    training = add_options(parser, Recipe)[Recipe.group]
    training.add_argument(
        "--force", action="store_true", help="train again though the same checkpoint is there"
    )
    training.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with an unfinished training of the same settings (default), or start it anew",
    )
    training.add_argument(
        "--save-every",
        type=save_interval,
        default=save_interval("1m"),
        metavar="N|TIME",
        help="store the state each N steps (50) or TIME (30s, 5m, 1h), and each epoch (default 1m)",
    )
