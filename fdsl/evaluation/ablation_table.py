"""The table of `test.py --ablate`: a row for each combination, with its difference to the first row."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.records import stable_seed
from fdsl.config.describe import SEES, TRAINED_ON_TEST_IMAGES, UNTRAINED
from fdsl.evaluation.bootstrap import (
    RESAMPLED,
    Counts,
    bootstrap_weights,
    counts_of_images,
    counts_of_pixels,
    interval,
)
from fdsl.evaluation.plan import PlannedRun
from fdsl.evaluation.write_results import CategoryFiles
from fdsl.metrics.exact import METRIC_NAMES
from fdsl.report.tables import UNDEFINED, mean_and_spread, mean_and_std, text_table, write_table
from fdsl.scoring import image_scores
from fdsl.store.maps import load_maps
from utils.config import PAPER_SIDE
from utils.console import progress
from utils.errors import ConfigError
from utils.files import read_json

logger = logging.getLogger("fdsl")
VALUES = ("mean", "std", "above_first", "low", "high")  # of each metric, in CSV and JSON


@dataclass
class Row:
    """A combination with one number of shots: its settings as typed, its runs (one for each seed), and of
    each run the metrics (fractions) and their deviations (R,) with resampled images."""

    settings: dict[str, str]
    runs: list[PlannedRun] = field(default_factory=list)
    metrics: list[dict[str, float | None]] = field(default_factory=list)
    deviations: list[dict[str, np.ndarray]] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        return [run.config.seed for run in self.runs]

    def mean(self, name: str) -> tuple[float, float | None] | None:
        """A metric's mean over seeds and its sample standard deviation, per cent."""
        return mean_and_std([of_run[name] for of_run in self.metrics])

    def above(self, first: Row, name: str) -> tuple[float, float, float] | None:
        """Points above the first row, mean over the seeds of both, and the 95 % interval; None where the
        metric is not defined for all of them, or maps are missing."""
        differences, resampled = [], []
        for seed, metrics, deviations in zip(self.seeds, self.metrics, self.deviations):
            if seed not in first.seeds:
                continue
            index = first.seeds.index(seed)
            value, of_first, deviations_of_first = (
                metrics[name],
                first.metrics[index][name],
                first.deviations[index],
            )
            if value is None or of_first is None or not (name in deviations and name in deviations_of_first):
                return None
            differences.append(100 * (value - of_first))
            resampled.append(100 * (deviations[name] - deviations_of_first[name]))
        if not differences:
            return None
        mean = statistics.fmean(differences)
        low, high = interval(np.mean(resampled, axis=0))
        return mean, mean + low, mean + high


class Resampled:
    """The metrics of runs with resampled test images: all runs get the same samples, so that two of them are
    paired."""

    def __init__(self) -> None:
        self.masks: dict[tuple[Path, str, int], np.ndarray | None] = {}
        self.deviations: dict[Path, dict[str, np.ndarray]] = {}  # by a run's folder

    def of(self, run: PlannedRun) -> dict[str, np.ndarray]:
        """Metric -> its deviation (R,) in each sample, a fraction, mean over categories; {} where the run's
        maps are missing. Computed once for a run that is in several tables."""
        folder = run.folder.path
        if folder not in self.deviations:
            self.deviations[folder] = self._computed(run)
        return self.deviations[folder]

    def _computed(self, run: PlannedRun) -> dict[str, np.ndarray]:
        folder, config = run.folder.path, run.config
        if not (folder / "maps.npz").is_file():
            return {}
        maps = load_maps(folder / "maps.npz").select(run.split.names).maps
        fused, raw = maps.fused(config.detector.windows)
        deviations: dict[str, list[np.ndarray]] = {}
        start = 0
        for category, records in run.split.records.items():
            part = slice(start, start := start + len(records))
            for name, values in self._of_category(run, category, fused[part], raw[part]).items():
                deviations.setdefault(name, []).append(values)
        return {name: np.mean(values, axis=0) for name, values in deviations.items()}

    def _of_category(
        self, run: PlannedRun, category: str, maps: np.ndarray, raw: np.ndarray
    ) -> dict[str, np.ndarray]:
        """One category's deviations."""
        records, config = run.split.records[category], run.config
        labels = np.array([record.anomalous for record in records])
        if labels.all() or not labels.any():
            return {}
        weights = _weights(run, category)
        scores = image_scores(maps, raw, config.image_score)
        weighted = {"sp": (counts_of_images(scores, labels), weights)}
        masks = [self._mask(run, category, index) for index in range(len(records))]
        with_mask = [index for index, mask in enumerate(masks) if mask is not None]
        chosen = [mask for mask in masks if mask is not None]
        if any(mask.any() for mask in chosen):
            weighted["px"] = counts_of_pixels(maps[with_mask], chosen), weights[:, with_mask]
        return {
            _name(metric, kind): values
            for kind, (counts, weights) in weighted.items()
            for metric, values in _deviations(counts, weights).items()
        }

    def _mask(self, run: PlannedRun, category: str, index: int) -> np.ndarray | None:
        """A test image's mask at the run's side; read once for all runs."""
        split, side = run.split, run.config.metric_size
        side = side if isinstance(side, int) else PAPER_SIDE
        record = split.records[category][index]
        key = split.root, record.image_path, side
        if key not in self.masks:
            files = CategoryFiles(split.root, split.records[category], split.grey.get(category))
            mask = files.mask(index, side)
            self.masks[key] = None if mask is None else np.packbits(mask)
        packed = self.masks[key]
        return None if packed is None else np.unpackbits(packed, count=side**2).view(bool).reshape(side, side)


def _weights(run: PlannedRun, category: str) -> np.ndarray:
    """(R,n): how often each of the run's n images is in each sample; the same for all runs that test it."""
    every = run.split.catalogue.test[category]
    weights = bootstrap_weights(
        np.array([record.anomalous for record in every]), stable_seed(category) % 2**32
    )
    place = {record.image_path: index for index, record in enumerate(every)}
    return weights[:, [place[record.image_path] for record in run.split.records[category]]]


def _deviations(counts: Counts, weights: np.ndarray) -> dict[str, np.ndarray]:
    usual = counts.metrics(np.ones((1, weights.shape[1]), np.float32))
    return {metric: values - usual[metric] for metric, values in counts.metrics(weights).items()}


def _name(metric: str, kind: str) -> str:
    return "aupro" if metric == "pro" else f"{metric}_{kind}"


def write_ablations(runs: Sequence[PlannedRun]) -> None:
    """Writes each table of finished runs as Markdown, CSV and JSON, and logs it."""
    tables: dict[str, list[PlannedRun]] = {}
    for run in runs:
        tables.setdefault(run.table, []).append(run)
    resampled = Resampled()
    for number, (name, part) in enumerate(tables.items(), start=1):
        _write_table(name, part, resampled, f"table {name} ({number}/{len(tables)}), bootstrap")


def _write_table(name: str, runs: Sequence[PlannedRun], resampled: Resampled, what: str) -> None:
    config, results = runs[0].config, runs[0].folder.results
    rows = _rows(runs)
    every = [(row, run) for row in rows for run in row.runs]
    for row, run in progress(every, len(every), what):
        row.metrics.append(_metrics_of(run))
        row.deviations.append(resampled.of(run) if len(rows) > 1 else {})
    file = results / config.model_name / config.dataset / f"{name}.md"
    columns = list(rows[0].settings)
    values = [_values(row, rows[0], results) for row in rows]
    write_table(file.with_suffix(""), markdown(rows, columns, runs), values, resampled=RESAMPLED)
    logger.info("%s\n\n%d combinations, %d runs: %s", _table(rows, columns), len(rows), len(runs), file)


def _metrics_of(run: PlannedRun) -> dict[str, float | None]:
    """The means over categories of a finished run's metrics."""
    values = read_json(run.folder.path / "metrics.json")
    if not isinstance(values, dict):
        raise ConfigError(f"{run.folder.path} has no metrics; give the same command again.")
    return {name: values["mean"].get(name) for name in METRIC_NAMES}


def _rows(runs: Iterable[PlannedRun]) -> list[Row]:
    """A row for each checkpoint, combination and number of shots, with its runs seed by seed."""
    rows: dict[tuple, Row] = {}
    for run in runs:
        settings = {**run.combination, "checkpoint": run.config.checkpoint, "shots": str(run.config.k_shot)}
        rows.setdefault(tuple(settings.items()), Row(settings)).runs.append(run)
    merged = list(rows.values())
    for name in ("checkpoint", "shots"):
        if len({row.settings[name] for row in merged} - {""}) <= 1:
            for row in merged:
                del row.settings[name]
    sees = [row.runs[0].config.detector.sees_test_set for row in merged]
    if any(sees):
        for row, is_transductive in zip(merged, sees):
            row.settings[SEES] = str(is_transductive).lower()
    return merged


def markdown(rows: Sequence[Row], columns: Sequence[str], runs: Sequence[PlannedRun]) -> str:
    """The table, the differences to its first row, and how the numbers were made."""
    config, seeds = runs[0].config, list(dict.fromkeys(run.config.seed for run in runs))
    parts = [
        f"# Ablation: {config.model_name} on {config.dataset}",
        f"Per cent, means over categories; mean ± sample standard deviation over the seeds "
        f"{' '.join(map(str, seeds))}{'' if len(seeds) > 1 else ' (one seed: no ±)'}. {UNDEFINED}: not "
        "defined, or without effect for the combination.",
        _table(rows, columns),
    ]
    if len(rows) > 1:
        parts += [
            "Points above the first row, mean over seeds, with the interval that holds 95 % of "
            f"{RESAMPLED} means in which the test images of each category are resampled, normal and "
            "defective ones separately, the same ones for both rows. It measures the influence of the test "
            "images, not that of the sampled references.",
            _differences(rows, columns),
        ]
    if any(run.config.detector.backbone.untrained for run in runs):
        parts.append(UNTRAINED)
    if any(run.config.trained_on_test_images for run in runs):
        parts.append(TRAINED_ON_TEST_IMAGES)
    parts.append("The command: `" + config.command.replace("`", "'") + "`")
    return "\n\n".join(parts) + "\n"


def _labels(row: Row, columns: Sequence[str]) -> list[str]:
    return [row.settings[name].replace("|", "\\|") or UNDEFINED for name in columns]


def _table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    lines = [
        [*_labels(row, columns), *(mean_and_spread(row.mean(name)) for name in METRIC_NAMES)] for row in rows
    ]
    return text_table(lines, [*columns, *METRIC_NAMES], len(columns))


def _differences(rows: Sequence[Row], columns: Sequence[str]) -> str:
    def cell(row: Row, name: str) -> str:
        above = row.above(rows[0], name)
        return UNDEFINED if above is None else f"{above[0]:+.1f} [{above[1]:+.1f}, {above[2]:+.1f}]"

    lines = [[*_labels(row, columns), *(cell(row, name) for name in METRIC_NAMES)] for row in rows[1:]]
    return text_table(lines, [*columns, *METRIC_NAMES], len(columns))


def _values(row: Row, first: Row, results: Path) -> dict[str, Any]:
    """A row as CSV and JSON have it: settings, seeds, the folders of its runs, and of each metric mean,
    spread, difference to the first row and interval."""
    values: dict[str, Any] = {**row.settings, "seeds": row.seeds}
    values["runs"] = [str(run.folder.path.relative_to(results)) for run in row.runs]
    for name in METRIC_NAMES:
        above = None if row is first else row.above(first, name)
        numbers = (*(row.mean(name) or (None, None)), *(above or (None, None, None)))
        values |= {f"{name}_{part}": number for part, number in zip(VALUES, numbers)}
    return values
