"""The runs of one test.py command, before anything is computed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fdsl.config.run_config import RunConfig
from fdsl.evaluation.few_shot_split import FewShotSplit
from fdsl.evaluation.run_folder import RunFolder
from fdsl.store.checkpoint import Checkpoint
from fdsl.store.maps import RunMaps, join_run_maps
from utils.errors import ConfigError


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """A run before anything is computed: its folder and configuration, heads, references and test images.

    `table`, `combination`: the ablation table that it belongs to, and its settings there by name, as typed.
    """

    folder: RunFolder
    checkpoint: Checkpoint | None
    split: FewShotSplit
    table: str = ""
    combination: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> RunConfig:
        """The run's one configuration."""
        return self.folder.config

    def of_categories(self, names: Container[str]) -> PlannedRun:
        """The run with only these of its categories."""
        records = {name: part for name, part in self.split.records.items() if name in names}
        return replace(self, split=replace(self.split, records=records))

    def key(self, category: str, fingerprint: str) -> dict[str, Any]:
        """All that the maps of a category depend on; `fingerprint`: of the backbone's weights."""
        identity = self.config.identity("maps")
        return {**identity, "weights": fingerprint, **self.split.digests[category]}

    def finished_category(self, category: str, fingerprint: str) -> RunMaps | None:
        """The maps of a finished category in its folder, or None."""
        tested = [record.image_path for record in self.split.records[category]]
        names = [*tested, *self.split.validation_names(category)]
        return self.folder.finished.load(self.key(category, fingerprint), names)

    def finished_maps(self, fingerprint: str) -> RunMaps | None:
        """The maps of all its test and validation images, category by category; None where one is not
        finished."""
        finished = [
            maps
            for category in self.split.records
            if (maps := self.finished_category(category, fingerprint)) is not None
        ]
        return join_run_maps(finished) if len(finished) == len(self.split.records) else None


def as_typed(combination: Mapping[str, str]) -> str:
    """Ablated settings as typed; "" without any."""
    return " ".join(f"{name}={value}" for name, value in combination.items() if value)


def unique(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """The runs without repetitions in other tables."""
    by_folder: dict[Path, PlannedRun] = {}
    for run in runs:
        by_folder.setdefault(run.folder.path, run)
    return list(by_folder.values())


def refuse_one_folder(runs: Sequence[PlannedRun]) -> None:
    """ConfigError for two different runs that would be written to one folder."""
    by_folder: dict[Path, PlannedRun] = {}
    for run in runs:
        other = by_folder.setdefault(run.folder.path, run)
        if other.config.identity("run") != run.config.identity("run"):
            names = [as_typed(one.combination) or one.config.checkpoint for one in (other, run)]
            raise ConfigError(
                f"{names[0]} and {names[1]} would both be written to {run.folder.path}; give two commands, "
                "the second with another --results or --model-name."
            )
