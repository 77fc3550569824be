"""What one run of test.py gains or loses against another: `python benchmarks/compare.py RUN RUN [RUN...]`.

Each RUN is a folder of results. Prints a Markdown table: the first run's metrics in per cent, the others' as
points of difference. It is how the cost of fast options and of narrow precisions is measured.

One run says little where a metric hangs on a few photographs. A quoted RUN with one part that holds a *, such
as 'results/fdsl/mvtec/1shot/seed*/mul_13_2_0.5', stands for several: each is held against the first's with
the same name there, and the table shows means and sample standard deviations.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fdsl.metrics.exact import METRIC_NAMES  # noqa: E402
from utils.command import run_command  # noqa: E402
from utils.errors import ConfigError  # noqa: E402
from utils.files import read_json  # noqa: E402

Metrics = Mapping[str, "float | None"]


def categories_of(folder: Path) -> Mapping[str, Metrics]:
    """Category -> metrics of a finished run; ConfigError for a folder that holds none."""
    metrics = read_json(folder / "metrics.json")
    categories = metrics.get("categories") if isinstance(metrics, dict) else None
    if not isinstance(categories, dict) or not all(
        isinstance(values, dict) and set(METRIC_NAMES) <= set(values) for values in categories.values()
    ):
        raise ConfigError(f"{folder} is not the folder of a finished test run: it has no whole metrics.json.")
    return categories


def runs_of(run: str) -> dict[str, Mapping[str, Metrics]]:
    """What stands where the * is -> that run's categories; one run, named "", without a *."""
    if "*" not in run:
        return {"": categories_of(Path(run))}
    parts = Path(run).parts
    starred = [number for number, part in enumerate(parts) if "*" in part]
    if len(starred) > 1:
        raise ConfigError(f"{run} has a * in {len(starred)} of its parts; compare.py takes it in one.")
    folders = sorted(Path(*parts[: starred[0]]).glob(str(Path(*parts[starred[0] :]))))
    if not folders:
        raise ConfigError(f"No folder is called {run}.")
    return {folder.parts[starred[0]]: categories_of(folder) for folder in folders}


def cells(own: Sequence[Metrics], others: Sequence[Metrics] | None = None) -> list[str]:
    """Per cent, or points of difference of each from its partner in `others`: the mean over runs and, of
    several, the sample standard deviation. A dash where a value is not defined in one of them."""
    found = []
    for name in METRIC_NAMES:
        values = [metrics[name] for metrics in own] + [metrics[name] for metrics in others or ()]
        if None in values:
            found.append("-")
            continue
        points = [
            100 * (metrics[name] - (others[number][name] if others else 0))
            for number, metrics in enumerate(own)
        ]
        spread = f" ± {statistics.stdev(points):.2f}" if len(points) > 1 else ""
        found.append(f"{statistics.mean(points):{'+' if others else ''}.2f}{spread}")
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the run, or runs, that the others are held against")
    parser.add_argument("others", nargs="+", metavar="RUN")
    args = parser.parse_args(argv)
    common = os.path.commonpath([os.path.abspath(run) for run in (args.run, *args.others)])
    first, *others = ((os.path.relpath(run, common), runs_of(run)) for run in (args.run, *args.others))
    for name, runs in others:
        if set(runs) != set(first[1]):
            raise ConfigError(
                f"{name} stands for the runs {', '.join(runs) or 'of one folder'}, {first[0]} for "
                f"{', '.join(first[1]) or 'one folder'}; only the same ones can be compared."
            )
    rows = []
    for category in next(iter(first[1].values())):
        exact = [run[category] for run in first[1].values() if category in run]
        rows.append([category, first[0], *cells(exact)])
        for name, runs in others:
            pairs = [
                (runs[seed][category], run[category])
                for seed, run in first[1].items()
                if category in run and category in runs[seed]
            ]
            if pairs:
                rows.append([category, name, *cells(*zip(*pairs))])
    sys.stdout.write(
        tabulate(rows, ["tested on", "run", *METRIC_NAMES], "github", disable_numparse=True) + "\n"
    )


if __name__ == "__main__":
    run_command(main, (ConfigError,))
