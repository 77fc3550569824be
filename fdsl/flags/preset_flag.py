"""`--preset`: the flag, and what it fills."""

from __future__ import annotations

import argparse
import logging

from fdsl.config.presets import PRESETS, with_preset
from utils.text import in_flags

logger = logging.getLogger("fdsl")


def add_preset_flag(parser: argparse._ActionsContainer) -> None:
    """The flag itself; `take_preset` fills what it stands for."""
    listed = "; ".join(f"{name}: {preset.words}" for name, preset in PRESETS.items())
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help=f"{', '.join(PRESETS)}; a backbone with its layers and image size ({listed}). The "
        "values are printed; flags that are given explicitly override them",
    )


def take_preset(args: argparse.Namespace) -> None:
    """Fills what `--preset` sets and no flag gave, and logs it."""
    if args.preset is None:
        return
    filled = with_preset(args.preset, vars(args))
    logger.info("preset %s: %s", args.preset, in_flags(filled))
    for name, value in filled.items():
        setattr(args, name, value)
