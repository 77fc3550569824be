"""The runs that test.py's flags ask for, before anything is computed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fdsl.flags.combinations import told
from fdsl.flags.run_settings import new_config, rerun_config
from fdsl.one_pass import Drawn
from fdsl.run_config import RunConfig
from fdsl.runs import RunFolder
from fdsl.store.checkpoint import Checkpoint
from fdsl.tested_set import TestedSet, draw_test_set, of_photographs
from models.methods.registry import METHODS
from utils.device import use_threads
from utils.errors import ConfigError, ModelError
from utils.log import said_once


@dataclass(frozen=True)
class Planned:
    """A run before anything is computed: its flags, configuration, heads and photographs."""

    args: argparse.Namespace
    config: RunConfig
    checkpoint: Checkpoint | None
    tested: TestedSet

    @cached_property
    def drawn(self) -> Drawn:
        """Its folder and its photographs; ConfigError where stored maps are of others."""
        config = of_photographs(self.config, self.tested, self.checkpoint, self.args.from_maps)
        return Drawn(RunFolder(self.args.results, config), self.tested)

    @property
    def combination(self) -> str:
        """Its ablated settings as they were typed, "" without any."""
        return " ".join(f"{name}={value}" for name, value in self.args.combination.items() if value)


def plan(several: Sequence[argparse.Namespace]) -> list[Planned]:
    """The runs that the flags ask for; those that differ in their seed alone share what was read, and those
    of one draw its photographs. A run that is in several tables comes once for each. ConfigError where two
    different ones would be written to one folder."""
    use_threads(several[0].threads)
    read: dict[str, tuple[RunConfig, Checkpoint | None]] = {}
    heads: dict[str, Checkpoint | None] = {}
    drawn: dict[tuple, TestedSet] = {}
    planned = []
    with said_once():
        for args in several:
            key = told(args, ("seed", "table", "combination"))
            if key not in read:
                read[key] = _read(args)
            config, checkpoint = read[key]
            checkpoint = heads.setdefault(config.checkpoint_digest, checkpoint)
            config = config if args.from_maps else replace(config, seed=args.seed)
            photographs = (config.k_shot, config.seed, METHODS[config.detector.method].sees_inspected)
            if photographs not in drawn:
                drawn[photographs] = draw_test_set(config, args.max_pixels)
            planned.append(Planned(args, config, checkpoint, drawn[photographs]))
        if len(planned) > 1:
            _refuse_one_folder(planned)
        return planned


def _read(args: argparse.Namespace) -> tuple[RunConfig, Checkpoint | None]:
    """A run's configuration and heads; an error names the combination that it is of."""
    try:
        return rerun_config(args) if args.from_maps else new_config(args)
    except (ConfigError, ModelError) as error:
        if not args.combination:
            raise
        words = " ".join(f"{name}={value}" for name, value in args.combination.items() if value)
        raise type(error)(f"--ablate {words}: {error}") from error


def _refuse_one_folder(planned: Sequence[Planned]) -> None:
    """ConfigError for two different runs of the same folder."""
    found: dict[str, Planned] = {}
    for one in planned:
        run = one.drawn.run
        other = found.setdefault(str(run.path), one)
        if other.drawn.run.config.identity("run") != run.config.identity("run"):
            names = [which.combination or which.config.checkpoint for which in (other, one)]
            raise ConfigError(
                f"{names[0]} and {names[1]} would both be written to {run.path}; give two commands, the "
                "second with another --results or --model-name."
            )


def each_once(planned: Iterable[Planned]) -> list[Planned]:
    """The runs without those that come again in another table."""
    found: dict[str, Planned] = {}
    for one in planned:
        found.setdefault(str(one.drawn.run.path), one)
    return list(found.values())
