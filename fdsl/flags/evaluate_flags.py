"""test.py's flags: which there are, and their defaults."""

from __future__ import annotations

import argparse
from typing import Any

from fdsl.config.contradictions import OF_EVALUATION, broken
from fdsl.config.evaluation_options import EvaluationOptions
from fdsl.config.run_config import DetectorConfig, RunConfig
from fdsl.flags.ablation_grid import AblationOptions, Settings, as_text, combinations, read_tables
from fdsl.flags.groups import add_detector_options, add_option, add_options, take_preset
from models.methods.registry import METHODS, WITH_HEADS
from utils.command_line import CommandLine
from utils.config import RuntimeOptions, WindowConfig
from utils.options import options_of

# Not set by argparse: with --from-maps the stored run decides.
DEFAULTS = {
    "model_name": options_of(RunConfig)["model_name"].default,
    "method": options_of(DetectorConfig)["method"].default,
    **{one.dest: one.default for one in options_of(RunConfig).values() if one.help},
}

COMMON = (  # what --help shows
    *("dataset", "data-path", "method", "checkpoint", "model-name", "k-shot", "seed", "preset", "results"),
    *("ablate", "from-maps", "device"),
)

# What goes with --from-maps: the stored run decides all that its maps depend on.
WITH_MAPS = (
    *("from-maps", "data-path", "meta", "results", "pictures", "force", "resume", "max-pixels", "threads"),
    *(one.flag[2:] for kind in (WindowConfig, RunConfig) for one in options_of(kind).values() if one.fused),
)


def parse(argv: list[str] | None, description: str) -> list[argparse.Namespace]:
    """Reads and checks the command line: the flags of each run, one for each checkpoint, combination of
    ablated settings, number of shots and seed."""
    parser = CommandLine(description, common=COMMON)
    add_options(parser, RunConfig, EvaluationOptions)
    add_option(parser, EvaluationOptions.group, options_of(DetectorConfig)["method"])
    add_detector_options(parser, research=True)
    add_options(parser, AblationOptions, RuntimeOptions)
    args = parser.parse_args(argv)
    if args.from_maps is not None:
        parser.refuse_all_but(WITH_MAPS, "--from-maps")
    several = [name for name in ("k_shot", "seed", "checkpoint") if len(_distinct(getattr(args, name))) > 1]
    several += [name for name in ("ablate", "table") if getattr(args, name)]
    given = argparse.Namespace(**vars(args), several=[name.replace("_", "-") for name in several])
    if problem := broken(OF_EVALUATION, given):
        parser.error(problem)
    tables = read_tables(args, parser)
    parser.save_settings(args)
    vars(args).update(take_preset(args.preset, vars(args)))
    runs = [run for one in _combined(args, tables, parser) for run in one_by_one(_filled(one))]
    if len(runs) == 1:
        parser.refuse_without_effect("one run, which has no memory to share", ("memory",))
    return runs


def _combined(
    args: argparse.Namespace, tables: dict[str, Settings], parser: CommandLine
) -> list[argparse.Namespace]:
    """The flags of each combination, table by table, and in it those of each checkpoint together; those that
    mean the same run are one."""
    compared = bool(args.ablate or args.table) or len(_distinct(args.checkpoint)) > 1  # they end in a table
    made = [
        argparse.Namespace(**{**vars(args), "checkpoint": one, "table": name, "compared": compared})
        for name in tables
        for one in _distinct(args.checkpoint)
    ]
    combined = [one for each in made for one in combinations(each, tables[each.table], parser)]
    for name, value in vars(args).items():
        if value is not None and all(getattr(one, name) is None for one in combined):
            parser.error(f"--{name.replace('_', '-')} has an effect in none of these runs: leave it out")
    return list({as_text(one): one for one in combined}.values())


def _filled(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with their defaults; with --from-maps the stored run decides instead."""
    if args.from_maps is None:
        method = METHODS[args.method or WITH_HEADS]
        of_method = {
            "k_shot": 0 if method.added_by else DEFAULTS["k_shot"],
            "image_score": method.image_score,
            "rotate_references": method.rotations,
        }
        for name, value in {**DEFAULTS, **of_method}.items():
            setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    return args


def one_by_one(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The flags of each run: seed after seed, and for each all numbers of shots."""
    shots, seeds = (_distinct(getattr(args, name)) for name in ("k_shot", "seed"))
    values = vars(args)
    return [argparse.Namespace(**{**values, "k_shot": k, "seed": seed}) for seed in seeds for k in shots]


def _distinct(given: list | Any) -> list:
    """What was given, each once, in order."""
    return list(dict.fromkeys(given)) if isinstance(given, list) else [given]
