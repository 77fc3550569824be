"""The paper's table from finished runs: mean and spread over seeds, with FDSL's and its rivals' published
rows.

    python -m fdsl.summarize results/fdsl

Reads results/MODEL/DATASET/Kshot/seedS/RUN/, prints Markdown and writes summary.md, summary.csv and
summary.json. Runs share a row only where everything but the seed is the same: settings, checkpoint, precision
and categories.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fdsl.flags.arguments import CommandLine
from fdsl.metrics.exact import METRIC_NAMES, mean_metrics
from fdsl.paper import DATASET_TITLES, incomplete_categories, published_rows, unlike_the_paper
from fdsl.report.tables import UNDEFINED
from fdsl.run_config import RunConfig
from fdsl.words import framing
from utils.command import run_command
from utils.errors import ConfigError
from utils.files import csv_text, read_json, short_digest, write_json, write_text

logger = logging.getLogger("fdsl")
RUNS = "*/*shot/seed*/*"
CSV_COLUMNS = (
    "dataset",
    "shots",
    "method",
    "published",
    "seeds",
    "categories",
    "comparable",
    *(f"{name}_{part}" for name in METRIC_NAMES for part in ("mean", "std")),
    "source",
)


@dataclass(frozen=True)
class Run:
    """One finished test run: its folder, its configuration, and the seven metrics of each category (fractions
    or None)."""

    folder: Path
    config: RunConfig
    categories: dict[str, dict[str, float | None]]

    def settings(self) -> dict[str, Any]:
        """All that must be equal for runs to share a row: `precision`, `categories`, `windows.win_size`."""
        row = self.config.identity("row")
        return {"precision": row.pop("precision"), "categories": sorted(self.categories), **row}


@dataclass(frozen=True)
class Row:
    """One line of the table, ours or published. `metrics`: name -> (mean, std or None), per cent; None if not
    known."""

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


def load_run(folder: Path) -> Run:
    """A run's folder, checked; ConfigError says what is wrong with it."""
    if not (folder / "metrics.json").is_file():
        raise ConfigError("not finished: it has no metrics.json")
    config, metrics = read_json(folder / "config.json"), read_json(folder / "metrics.json")
    if not isinstance(config, dict):
        raise ConfigError("config.json is missing or not JSON")
    if not isinstance(metrics, dict) or not metrics.get("categories"):
        raise ConfigError("metrics.json is not JSON or has no categories")
    try:
        found = {
            category: {name: _fraction(values[name]) for name in METRIC_NAMES}
            for category, values in metrics["categories"].items()
        }
        return Run(folder, RunConfig.from_json(config), found)
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
    """The whole runs below results/MODEL, and the skipped ones: path -> reason. ConfigError where there is no
    run."""
    cure = "name the results of one model, for instance results/fdsl."
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; {cure}")
    runs: list[Run] = []
    skipped, known = {}, {}
    for place in sorted(path for path in folder.glob(RUNS) if path.is_dir() and path.suffix != ".tmp"):
        name = place.relative_to(folder).as_posix()
        try:
            run = load_run(place)
        except ConfigError as error:
            skipped[name] = str(error)
            continue
        same = known.setdefault((_key(run), run.config.seed), name)
        if same == name:
            runs.append(run)
        else:
            skipped[name] = f"the same settings and seed as {same}"
    if not runs:
        reason = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3])
        found = f" ({reason})" if reason else ""
        raise ConfigError(f"{folder} holds no finished run in DATASET/Kshot/seedS/RUN{found}; {cure}")
    return runs, skipped


def _key(run: Run) -> str:
    return json.dumps(run.settings(), sort_keys=True)


def table_rows(runs: Sequence[Run]) -> list[Row]:
    """Our rows (seeds of one setting together) by dataset and shots, each followed by the published ones."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.config.seed):
        groups.setdefault(_key(run), []).append(run)
    ours = []
    for members in groups.values():
        config, name = members[0].config, members[0].folder.name
        alike = [
            other[0].settings()
            for other in groups.values()
            if other[0].folder.name == name
            and (other[0].config.dataset, other[0].config.k_shot) == (config.dataset, config.k_shot)
        ]
        difference = _difference(members[0].settings(), alike)
        ours.append(
            _our_row(members, f"{config.model_name} {name}{f' ({difference})' if difference else ''}")
        )
    rows, order = [], list(DATASET_TITLES)
    for dataset, shots in sorted(
        {(row.dataset, row.shots) for row in ours},
        key=lambda pair: (order.index(pair[0]) if pair[0] in order else len(order), pair),
    ):
        part = [row for row in ours if (row.dataset, row.shots) == (dataset, shots)]
        rows += sorted(part, key=lambda row: row.method)
        rows += [
            Row(
                dataset,
                shots,
                found["method"],
                {name: found[name] for name in METRIC_NAMES},
                published=True,
                source=found["source"] + (f"; as quoted in {found['quoted']}" if found["quoted"] else ""),
            )
            for found in published_rows(dataset, shots)
        ]
    return rows


def _difference(settings: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    """What tells one setting from others with the same RUN name; empty where there is nothing to tell."""
    parts = []
    for name in sorted(set().union(*alike)):
        if all(other.get(name) == settings.get(name) for other in alike):
            continue
        value = settings.get(name)
        if name == "categories":
            own = sorted(set(value) - set.intersection(*(set(other[name]) for other in alike)))
            more = ", ..." if len(own) > 3 else ""
            value = f"{len(value)}, with {', '.join(own[:3])}{more}" if own else str(len(value))
        elif name == "checkpoint_digest":
            value = short_digest(value)
        parts.append(
            f"{name.split('.')[-1]}: {' '.join(map(str, value)) if isinstance(value, list) else value}"
        )
    return "; ".join(parts)


def _our_row(members: Sequence[Run], method: str) -> Row:
    config, categories = members[0].config, sorted(members[0].categories)
    seeds = [run.config.seed for run in members]
    means = [mean_metrics(run.categories) for run in members]
    values = {name: [100 * mean[name] for mean in means if mean[name] is not None] for name in METRIC_NAMES}
    metrics = {
        name: (statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None)
        if found
        else None
        for name, found in values.items()
    }
    untrained = config.detector.backbone.untrained
    partly = [name for name, found in values.items() if 0 < len(found) < len(seeds)]
    incomplete = incomplete_categories(config.dataset, categories)
    other = unlike_the_paper(config)
    warnings = [
        *(
            ["the backbone is untrained: these numbers show that everything runs, not how good the method is"]
            if untrained
            else []
        ),
        *([incomplete] if incomplete else []),
        *([f"unlike the paper: {', '.join(other)}"] if other and not untrained else []),
        *([f"{', '.join(partly)} not defined for every seed"] if partly else []),
    ]
    source = framing(config, seeds)
    return Row(
        config.dataset,
        config.k_shot,
        method,
        metrics,
        source,
        seeds,
        categories,
        warnings,
        members[0].settings(),
        comparable=not (untrained or incomplete),
    )


def _in_cell(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return UNDEFINED
    return f"{value[0]:.1f}" if value[1] is None else f"{value[0]:.1f} ± {value[1]:.1f}"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def markdown(folder: Path, rows: Sequence[Row], skipped: Mapping[str, str]) -> str:
    """One table for each dataset, with its warnings, what was run, and the sources of the published rows."""
    parts = [
        f"# {_plain(str(folder))}: mean over seeds",
        "Per cent; mean ± sample standard deviation over the seeds named (one seed: no ±). Published rows "
        f"are their authors' numbers under their own protocol. {UNDEFINED}: not defined, reported or "
        "confirmed.",
    ]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        part = [row for row in rows if row.dataset == dataset]
        lines = [
            [
                str(row.shots),
                _plain(row.method) + (" (published)" if row.published else ""),
                " ".join(map(str, row.seeds)),
                *(_in_cell(row.metrics[name]) for name in METRIC_NAMES),
            ]
            for row in part
        ]
        parts += [
            f"## {_plain(DATASET_TITLES.get(dataset, dataset))}",
            tabulate(
                lines,
                headers=["shots", "method", "seeds", *METRIC_NAMES],
                tablefmt="github",
                disable_numparse=True,
                colalign=["right", "left", "left", *["right"] * len(METRIC_NAMES)],
            ),
        ]
        warnings = [
            f"- {_plain(row.method)}, {row.shots} shot(s): {_plain(text)}."
            for row in part
            for text in row.warnings
        ]
        parts += ["Warnings:\n\n" + "\n".join(warnings)] if warnings else []
        sources = dict.fromkeys(
            f"- {_plain(row.method)}: {_plain(row.source)}"
            for row in sorted(part, key=lambda row: row.published)
        )
        parts.append("What was run, and where the published rows come from:\n\n" + "\n".join(sources))
    if skipped:
        parts += [
            "## Skipped runs",
            "\n".join(f"- {_plain(name)}: {_plain(why)}" for name, why in skipped.items()),
        ]
    return "\n\n".join(parts) + "\n"


def write_summary(output: Path, folder: Path, rows: Sequence[Row], skipped: Mapping[str, str]) -> str:
    """Writes summary.md, summary.csv and summary.json (per cent, all digits); returns the Markdown."""
    text = markdown(folder, rows, skipped)
    flat = [
        [
            row.dataset,
            row.shots,
            row.method,
            int(row.published),
            " ".join(map(str, row.seeds)),
            None if row.published else " ".join(row.categories),
            int(row.comparable),
            *(part for name in METRIC_NAMES for part in row.metrics[name] or (None, None)),
            row.source,
        ]
        for row in rows
    ]
    listed = [
        {
            **vars(row),
            "metrics": {
                name: None if value is None else {"mean": value[0], "std": value[1]}
                for name, value in row.metrics.items()
            },
        }
        for row in rows
    ]
    try:
        write_text(output / "summary.md", text)
        write_text(output / "summary.csv", csv_text(CSV_COLUMNS, flat))
        write_json(
            output / "summary.json",
            {"folder": str(folder), "unit": "per cent", "rows": listed, "skipped": dict(skipped)},
        )
    except OSError as error:
        raise ConfigError(
            f"The summary cannot be written to {output} ({error.strerror}); "
            "name another folder with --output."
        ) from error
    return text


def main(argv: list[str] | None = None) -> None:
    parser = CommandLine(__doc__, "python -m fdsl.summarize")
    parser.add_argument("folder", type=Path, help="a model's results, for instance results/fdsl")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: that folder)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    runs, skipped = find_runs(args.folder)
    for name, why in skipped.items():
        logger.warning("skipped %s: %s", name, why)
    rows = table_rows(runs)
    for row in rows:
        for text in row.warnings:
            logger.warning("warning: %s, %s, %d shot(s): %s", row.method, row.dataset, row.shots, text)
    output = args.output or args.folder
    text = write_summary(output, args.folder, rows, skipped)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    logger.info("%d run(s) in %s", len(runs), output / "summary.md")


if __name__ == "__main__":
    run_command(main, (ConfigError,))
