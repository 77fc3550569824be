"""The runs that test.py's flags ask for, before anything is computed."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import cached_property

from fdsl.flags.run_settings import new_config, rerun_config
from fdsl.one_pass import Drawn
from fdsl.run_config import RunConfig
from fdsl.runs import RunFolder
from fdsl.store.checkpoint import Checkpoint
from fdsl.tested_set import TestedSet, draw_test_set, of_photographs
from utils.device import use_threads


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


def plan(several: list[argparse.Namespace]) -> list[Planned]:
    """The runs that the flags ask for; those that differ in their seed alone share what was read."""
    use_threads(several[0].threads)
    read: dict[int | None, tuple[RunConfig, Checkpoint | None]] = {}
    planned = []
    for args in several:
        if args.k_shot not in read:
            read[args.k_shot] = rerun_config(args) if args.from_maps else new_config(args)
        config, checkpoint = read[args.k_shot]
        config = config if args.from_maps else replace(config, seed=args.seed)
        planned.append(Planned(args, config, checkpoint, draw_test_set(config, args.max_pixels)))
    return planned
