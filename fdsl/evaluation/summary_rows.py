"""The rows of the summary: finished runs, read and checked; runs of one setting are one row over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdsl.config.describe import framing
from fdsl.config.run_config import RunConfig
from fdsl.evaluation.run_name import name_of
from fdsl.metrics.exact import ALL_METRICS, METRIC_NAMES, MORE_METRICS, mean_metrics
from fdsl.report.published import DATASET_TITLES, incomplete_categories, published_rows, unlike_the_paper
from fdsl.report.tables import mean_and_std
from utils.errors import ConfigError
from utils.files import read_json, short_digest
from utils.options import from_stored

RUNS = "*/*shot/seed*/*"


@dataclass(frozen=True)
class Run:
    """One finished test run: its folder, its configuration, and ALL_METRICS of each category (fractions or
    None)."""

    folder: Path
    config: RunConfig
    categories: dict[str, dict[str, float | None]]

    def settings(self) -> dict[str, Any]:
        """The settings that runs of one row share, for instance `precision`, `categories`,
        `windows.win_size`."""
        row = self.config.identity("row")
        return {"precision": row.pop("precision"), "categories": sorted(self.categories), **row}


@dataclass(frozen=True)
class Row:
    """One line of the table, ours or published. `metrics`: name -> (mean, std or None), per cent; None if
    unknown."""

    dataset: str
    shots: int
    method: str
    metrics: dict[str, tuple[float, float | None] | None]
    source: str
    seeds: list[int] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    settings: dict[str, Any] | None = None
    comparable: bool = True
    published: bool = False
    sees_test_set: bool = False


def load_run(folder: Path) -> Run:
    """The run in a folder; ConfigError with the reason where it is not valid."""
    if not (folder / "metrics.json").is_file():
        raise ConfigError("not finished: it has no metrics.json")
    config, metrics = read_json(folder / "config.json"), read_json(folder / "metrics.json")
    if not isinstance(config, dict):
        raise ConfigError("config.json is missing or not JSON")
    if not isinstance(metrics, dict) or not metrics.get("categories"):
        raise ConfigError("metrics.json is not JSON or has no categories")
    try:
        categories = {
            category: {name: _fraction(values[name]) for name in ALL_METRICS}
            for category, values in metrics["categories"].items()
        }
        return Run(folder, from_stored(RunConfig, config), categories)
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"config.json or metrics.json is not of a test run of this version ({what})"
        ) from error


def _fraction(value: Any) -> float | None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1
    ):
        raise ValueError(f"a metric is {value!r}, not a number from 0 to 1")
    return value


def find_runs(folder: Path) -> tuple[list[Run], dict[str, str]]:
    """The finished runs below results/MODEL, and the skipped ones: path -> reason. ConfigError where there is
    no run."""
    cure = "name the results of one model, for instance results/fdsl."
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; {cure}")
    runs: list[Run] = []
    skipped: dict[str, str] = {}
    first_of: dict[tuple[str, int], str] = {}
    for place in sorted(path for path in folder.glob(RUNS) if path.is_dir() and path.suffix != ".tmp"):
        name = place.relative_to(folder).as_posix()
        try:
            run = load_run(place)
        except ConfigError as error:
            skipped[name] = str(error)
            continue
        same = first_of.setdefault((_key(run), run.config.seed), name)
        if same == name:
            runs.append(run)
        else:
            skipped[name] = f"the same settings and seed as {same}"
    if not runs:
        reason = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3])
        reasons = f" ({reason})" if reason else ""
        raise ConfigError(f"{folder} holds no finished run in DATASET/Kshot/seedS/RUN{reasons}; {cure}")
    return runs, skipped


def _key(run: Run) -> str:
    return json.dumps(run.settings(), sort_keys=True)


def table_rows(runs: Sequence[Run]) -> list[Row]:
    """Our rows, one per setting over its seeds, by dataset and shots, each followed by the published ones."""
    ours, order = _our_rows(runs), list(DATASET_TITLES)
    places = {(row.dataset, row.shots) for row in ours}
    rows: list[Row] = []
    for dataset, shots in sorted(
        places, key=lambda pair: (order.index(pair[0]) if pair[0] in order else len(order), pair)
    ):
        part = [row for row in ours if (row.dataset, row.shots) == (dataset, shots)]
        rows += sorted(part, key=lambda row: row.method)
        rows += [_published_row(dataset, shots, published) for published in published_rows(dataset, shots)]
    return rows


def _our_rows(runs: Sequence[Run]) -> list[Row]:
    """A row for each setting; names that several settings share get their differences added."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.config.seed):
        groups.setdefault(_key(run), []).append(run)
    firsts = [members[0] for members in groups.values()]
    ours = []
    for members in groups.values():
        config, name = members[0].config, name_of(members[0].config)
        namesakes = [
            other.settings()
            for other in firsts
            if name_of(other.config) == name
            and (other.config.dataset, other.config.k_shot) == (config.dataset, config.k_shot)
        ]
        difference = _difference(members[0].settings(), namesakes)
        ours.append(
            _our_row(members, f"{config.model_name} {name}{f' ({difference})' if difference else ''}")
        )
    return ours


def _published_row(dataset: str, shots: int, published: Mapping[str, Any]) -> Row:
    return Row(
        dataset,
        shots,
        published["method"],
        {**{name: published[name] for name in METRIC_NAMES}, **dict.fromkeys(MORE_METRICS)},
        published=True,
        source=published["source"] + (f"; as quoted in {published['quoted']}" if published["quoted"] else ""),
    )


def _difference(settings: Mapping[str, Any], namesakes: Sequence[Mapping[str, Any]]) -> str:
    """The values that distinguish one setting from others of the same name; "" for none."""
    return "; ".join(
        f"{name.split('.')[-1]}: {_value_in_words(name, settings.get(name), namesakes)}"
        for name in sorted(set().union(*namesakes))
        if any(other.get(name) != settings.get(name) for other in namesakes)
    )


def _value_in_words(name: str, value: Any, namesakes: Sequence[Mapping[str, Any]]) -> str:
    """A setting's value; of categories their number, and those that the others lack."""
    if name == "categories":
        own = sorted(set(value) - set.intersection(*(set(other[name]) for other in namesakes)))
        more = ", ..." if len(own) > 3 else ""
        return f"{len(value)}, with {', '.join(own[:3])}{more}" if own else str(len(value))
    if name == "checkpoint_digest":
        return short_digest(value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _our_row(members: Sequence[Run], method: str) -> Row:
    config, categories = members[0].config, sorted(members[0].categories)
    seeds = [run.config.seed for run in members]
    means = [mean_metrics(run.categories) for run in members]
    values = {name: [mean[name] for mean in means] for name in ALL_METRICS}
    partly = [name for name, of_seeds in values.items() if 0 < of_seeds.count(None) < len(seeds)]
    incomplete = incomplete_categories(config.dataset, categories)
    return Row(
        config.dataset,
        config.k_shot,
        method,
        {name: mean_and_std(of_seeds) for name, of_seeds in values.items()},
        framing(config, seeds),
        seeds,
        categories,
        _warnings(config, incomplete, partly),
        members[0].settings(),
        comparable=not (config.detector.backbone.untrained or incomplete),
        sees_test_set=config.detector.sees_test_set,
    )


def _warnings(config: RunConfig, incomplete: str, partly: Sequence[str]) -> list[str]:
    """Warnings for readers who compare the row with others."""
    warnings, other = [], unlike_the_paper(config)
    if config.detector.backbone.untrained:
        warnings.append(
            "the backbone is untrained: these numbers show that everything runs, not how good the method is"
        )
    warnings += [incomplete] if incomplete else []
    if other and not config.detector.backbone.untrained:
        warnings.append(f"unlike the paper: {other}")
    warnings += [f"{', '.join(partly)} not defined for every seed"] if partly else []
    return warnings
