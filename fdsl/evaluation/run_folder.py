"""A test run's folder: its path, whether it is finished, and how it begins and ends."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from data.catalogue import find_duplicates
from fdsl.config.describe import framing
from fdsl.config.run_config import RunConfig
from fdsl.evaluation.few_shot_split import FewShotSplit
from fdsl.evaluation.run_name import name_of
from fdsl.evaluation.summary_rows import load_run
from fdsl.report.tables import metrics_table
from fdsl.store.maps import FinishedCategories
from utils.console import start_logging, warn
from utils.errors import ConfigError
from utils.files import read_json, remove_leftovers, short_digest, write_json, write_text
from utils.lock import locked
from utils.options import as_stored, from_stored, without
from utils.signals import command_line
from utils.text import is_folder_name, one_line

logger = logging.getLogger("fdsl")
LOCK_CURE = "name another folder with --results"
WRITTEN = (
    "metrics.json",
    "config.json",
    "references.txt",
    "maps.npz",
    "validation.npz",
    "scores.csv",
    "metrics.csv",
    "table.md",
    "pixels.json",
    "report.html",
)  # metrics.json, which marks a run as complete, is removed first
# Settings whose change repeats a run in its folder.
CONTENT = ("files", "grey", "weights", "checkpoint_digest", "trained_on", "trained_on_test_images")


class RunFolder:
    """RESULTS/MODEL/DATASET/Kshot/seedS/RUN of a configuration."""

    def __init__(self, results: Path, config: RunConfig) -> None:
        self.results, self.config = results, config
        self.path = _place_of(results, config)

    @cached_property
    def finished(self) -> FinishedCategories:
        """The finished categories of a run that has begun."""
        return FinishedCategories(self.path)

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def missing(self) -> Literal["maps", "report", "nothing"]:
        """The results that the folder lacks of this run: all (its maps), only pictures and report, or
        nothing."""
        complete, _ = self._compared()
        if not complete:
            return "maps"
        if self.config.pictures == 0 or (self.path / "report.html").is_file():
            return "nothing"
        return "report" if (self.path / "maps.npz").is_file() else "maps"

    def _compared(self) -> tuple[bool, str]:
        """Whether the folder holds a complete run of this configuration, or of it in float32 because values
        overflowed in its precision; else why the complete run that it holds is replaced, "" for none."""
        if FinishedCategories.left_in(self.path) or not (self.path / "metrics.json").is_file():
            return False, ""
        try:
            before, now = _identities(load_run(self.path).config, self.config)
        except ConfigError as error:
            return False, one_line(error)
        if before == {**now, "files": before.get("files")}:
            return before == now, "" if before == now else "the photographs have changed since this run"
        other = _differences(before, now)
        return False, f"it has another {', '.join(other)}" if other else ""

    def log_numbers(self) -> None:
        """Logs the numbers of the finished run."""
        logger.info("%s is finished: nothing to do (--force repeats it).", self.path)
        table = metrics_table(load_run(self.path).categories)
        logger.info("%s\n\nPer cent. %s", table, framing(self.config))

    def take_own_maps(self) -> Path:
        """Prepares to evaluate the finished run anew from its maps, with the machine that made them; returns
        its folder."""
        logger.info("%s is finished but for its pictures: they are made from its maps.", self.path)
        machine = from_stored(RunConfig, read_json(self.path / "config.json")).detector.machine
        self.config = replace(self.config, detector=replace(self.config.detector, machine=machine))
        return self.path

    def locked(self) -> AbstractContextManager[None]:
        """A lock on the folder for this process."""
        return locked(self.path / ".lock", str(self.path), LOCK_CURE)

    def begin(self, split: FewShotSplit, resume: bool, from_maps: Path | None = None) -> None:
        """Removes an earlier run's results, except the maps that this one is made from, and with `resume` the
        finished categories of an interrupted run; then writes configuration and references."""
        _, why = self._compared()
        if why:
            logger.warning("warning: the run in %s is replaced (%s).", self.path, why)
        finished = self.finished  # its folder exists from now on, until the run has ended
        if not resume:
            finished.clear()
        remove_leftovers(*(self.path / name for name in WRITTEN))
        own_maps = from_maps is not None and from_maps.resolve() == self.path.resolve()
        for name in WRITTEN:
            if name != "config.json" and not (name in ("maps.npz", "validation.npz") and own_maps):
                (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / "pictures", ignore_errors=True)
        start_logging(self.log)
        logger.info("%s", command_line())
        write_json(self.path / "config.json", as_stored(self.config))
        references = [record for records in split.references.values() for record in records]
        lines = [f"{record.category}\t{record.image_path}\n" for record in references]
        write_text(self.path / "references.txt", "".join(lines))
        for category, records in split.records.items():
            warn(find_duplicates(split.root, split.references[category], records))

    def fall_back_to_float32(self) -> None:
        """Makes it a run in float32, after values overflowed in the requested precision."""
        self.config = self.config.in_float32()
        write_json(self.path / "config.json", as_stored(self.config))

    def finish(self) -> None:
        """Removes the finished categories once the results are written."""
        self.finished.discard()
        report = "" if self.config.pictures == 0 else f"; open {self.path / 'report.html'}"
        logger.info("results in %s%s", self.path, report)


def _place_of(results: Path, config: RunConfig) -> Path:
    """The folder of a run. If a run with other settings or heads has that name already, a digest of its own
    settings and of the place of its heads is added."""
    folder = results / config.model_name / config.dataset / f"{config.k_shot}shot" / f"seed{config.seed}"
    usual = folder / name_of(config)
    heads = str(Path(config.checkpoint).resolve()) if config.checkpoint else ""
    settings = [without(config.identity("run"), CONTENT), heads]
    own = usual.with_name(f"{usual.name}_{short_digest(json.dumps(settings, sort_keys=True))}")
    try:
        stored = from_stored(RunConfig, read_json(usual / "config.json"))
    except ConfigError:
        return own if own.is_dir() else usual
    before, now = _identities(stored, config)
    other = _differences(without(before, CONTENT), without(now, CONTENT))
    if before["checkpoint_digest"] != now["checkpoint_digest"] and stored.checkpoint != config.checkpoint:
        other.append("checkpoint_digest")  # of one place it was trained again
    if not other:
        return usual
    logger.info("%s holds a run of another %s: this one goes to %s.", usual, ", ".join(other), own)
    return own


def _identities(stored: RunConfig, config: RunConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The identities of a stored run and of this one; in float32 where the stored one overflowed in this
    one's precision."""
    fell_back = stored.detector.machine.precision_asked == config.detector.machine.precision
    current = config.in_float32() if fell_back else config
    return stored.identity("run"), current.identity("run")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of the settings in which a finished run and this one differ."""
    names = without(now, ("files", "trained_on_test_images"))
    return [name for name in names if before.get(name) != now[name]]


def read_run_config(folder: Path) -> RunConfig:
    """The configuration of a finished run; ConfigError for a folder without a valid one."""
    file = folder / "config.json"
    values = read_json(file)
    if not isinstance(values, dict) or "windows" not in values:
        raise ConfigError(f"{folder} is not the folder of a test run: it has no config.json.")
    try:
        config = from_stored(RunConfig, values)
        if not is_folder_name(config.model_name):
            raise ConfigError(f"{config.model_name!r} cannot be the name of a folder")
    except ConfigError as error:
        raise ConfigError(
            f"{file} is not that of a test run ({one_line(error)}); run test.py again."
        ) from error
    return config
