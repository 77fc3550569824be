"""The settings of a command of test.py. Those of each of its runs are in fdsl/config/run_config.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.records import DATASETS
from fdsl.config.presets import preset_option
from fdsl.config.run_config import RunConfig
from utils.command_line import name_part
from utils.config import RuntimeOptions, at_least_one, max_pixels
from utils.options import option


@dataclass(frozen=True)
class Reading:
    """How many images are encoded at once, and by how many processes they are read (None: by the cores there
    are)."""

    batch_size: int = 4
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(RuntimeOptions):
    """The settings of a command. `checkpoint`, `data_path`, `meta`: None: the usual ones. `memory`: GiB for
    memory banks and encoded batches of several runs, None: half of what is free. `compared`: the runs end in
    tables."""

    group = ""

    preset: str | None = preset_option()
    dataset: str | None = option(None, choices=DATASETS, help="needed unless --from-maps names a run")
    data_path: Path | None = option(None, reads=Path, help="the dataset's folder (default data/DATASET)")
    meta: Path | None = option(
        None, reads=Path, metavar="FILE", help="meta.json elsewhere than in the dataset's folder"
    )
    model_name: str | None = option(
        None, reads=name_part, help="names checkpoints and results (default fdsl)"
    )
    checkpoint: Sequence[Path] | None = option(
        None,
        reads=Path,
        several=True,
        metavar="FILE",
        help="trained heads; default CHECKPOINTS/MODEL/<the other dataset>.safetensors; several: a run for "
        "each",
    )
    checkpoints: Path | None = option(
        None, reads=Path, metavar="DIR", help="where the default of --checkpoint lies (default checkpoints)"
    )
    results: Path = option(
        Path("results"), reads=Path, metavar="DIR", help="folder of all runs (default $default)"
    )
    memory: float | None = option(
        None,
        reads=float,
        span=(0, math.inf),
        above=True,
        metavar="GIB",
        help="what several runs may take for memory banks and encoded images (default half of what is free)",
    )
    batch_size: int = at_least_one(4, help="images encoded at once (default $default)")
    from_maps: Path | None = option(
        None, reads=Path, group=RunConfig.group, metavar="DIR", help="evaluate a finished run's maps anew"
    )
    force: bool = option(False, group=RunConfig.group, help="repeat a run that is finished")
    submission: Path | None = option(
        None,
        reads=Path,
        group=RunConfig.group,
        metavar="DIR",
        help="of MVTec AD 2 also write what its server takes: maps of the private images (docs/reproduce.md)",
    )
    resume: bool = option(
        True,
        group=RunConfig.group,
        help="go on after the finished categories of an interrupted run (default), or start it anew",
    )
    max_pixels: int = max_pixels()
    compared: bool = False

    @property
    def reading(self) -> Reading:
        return Reading(self.batch_size, self.workers)
