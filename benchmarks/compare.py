"""What one run of test.py gains or loses against another: `python benchmarks/compare.py RUN RUN [RUN...]`.

Each RUN is a folder of results. Prints a Markdown table: the first run's metrics in per cent, the others' as points of
difference. It is how the cost of fast options and of narrow precisions is measured.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Mapping

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils.config import ConfigError  # noqa: E402
from utils.metrics import METRIC_NAMES  # noqa: E402
from utils.results import read_json  # noqa: E402
from utils.runtime import run_command  # noqa: E402


def categories_of(folder: Path) -> Mapping[str, Mapping[str, float | None]]:
    """Category -> metrics of a finished run; ConfigError for a folder that holds none."""
    metrics = read_json(folder / "metrics.json")
    categories = metrics.get("categories") if isinstance(metrics, dict) else None
    if not isinstance(categories, dict) or not all(isinstance(values, dict) and set(METRIC_NAMES) <= set(values)
                                                   for values in categories.values()):
        raise ConfigError(f"{folder} is not the folder of a finished test run: it has no whole metrics.json.")
    return categories


def cells(own: Mapping[str, float | None], other: Mapping[str, float | None] | None) -> list[str]:
    """Per cent, or points of difference from `other`; a dash where either is not defined."""
    found = []
    for name in METRIC_NAMES:
        values = (own[name],) if other is None else (own[name], other[name])
        if None in values:
            found.append("-")
        else:
            found.append(f"{100 * values[0]:.2f}" if other is None else f"{100 * (values[0] - values[1]):+.2f}")
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run that the others are held against")
    parser.add_argument("others", type=Path, nargs="+", metavar="RUN")
    args = parser.parse_args(argv)
    common = Path(os.path.commonpath([folder.resolve() for folder in (args.run, *args.others)]))
    first, *others = ((str(folder.resolve().relative_to(common)), categories_of(folder)) for folder in (args.run, *args.others))
    rows = []
    for category, metrics in first[1].items():
        rows.append([category, first[0], *cells(metrics, None)])
        rows += [[category, name, *cells(run[category], metrics)] for name, run in others if category in run]
    sys.stdout.write(tabulate(rows, ["tested on", "run", *METRIC_NAMES], "github", disable_numparse=True) + "\n")


if __name__ == "__main__":
    run_command(main, (ConfigError,))
