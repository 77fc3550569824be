"""A test run's numbers as Markdown, CSV and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fdsl.config.describe import framing
from fdsl.config.run_config import RunConfig
from fdsl.metrics.exact import ALL_METRICS, METRIC_NAMES, mean_metrics
from utils.files import csv_text, write_json, write_text
from utils.options import without

UNDEFINED = "-"
IN_JSON_ALONE = ("settings", "warnings", "runs")  # of the rows of a table


Categories = Mapping[str, Mapping[str, float | None]]  # category -> metric -> fraction, or None


def metrics_table(categories: Categories) -> str:
    """METRIC_NAMES of each category and their mean, per cent with one decimal, a dash where not
    defined."""

    def row(name: str, values: Mapping[str, float | None]) -> list[str]:
        return [name, *(per_cent(values[metric]) for metric in METRIC_NAMES)]

    rows = [row(name, values) for name, values in categories.items()]
    return text_table([*rows, row("mean", mean_metrics(categories))], ["category", *METRIC_NAMES], 1)


def text_table(rows: Iterable[Sequence[str]], headers: Sequence[str], left: int) -> str:
    """Cells below their headers: the first `left` columns are texts, the others numbers."""
    sides = [*["left"] * left, *["right"] * (len(headers) - left)]
    return tabulate(rows, headers, "github", disable_numparse=True, colalign=sides)


def write_table(stem: Path, text: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Writes a table as STEM.md (`text`), STEM.csv and STEM.json: `rows` with the same keys, in per cent with
    all digits, and in JSON `more`."""
    cells = [without(row, IN_JSON_ALONE) for row in rows]
    lines = [
        [" ".join(map(str, one)) if isinstance(one, list) else one for one in row.values()] for row in cells
    ]
    write_text(stem.with_name(f"{stem.name}.md"), text)
    write_text(stem.with_name(f"{stem.name}.csv"), csv_text(list(cells[0]), lines))
    write_json(stem.with_name(f"{stem.name}.json"), {"unit": "per cent", **more, "rows": rows})


def per_cent(value: float | None, undefined: str = UNDEFINED) -> str:
    """A fraction as per cent with one decimal; `undefined` for None."""
    return undefined if value is None else f"{100 * value:.1f}"


def mean_and_std(fractions: Sequence[float | None]) -> tuple[float, float | None] | None:
    """The mean over seeds in per cent and its sample standard deviation, without the undefined ones; None
    where all are."""
    values = [100 * value for value in fractions if value is not None]
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def mean_and_spread(value: tuple[float, float | None] | None, undefined: str = UNDEFINED) -> str:
    """A mean and its standard deviation, per cent, as a table's cell: the mean alone where there is no other,
    `undefined` for None."""
    if value is None:
        return undefined
    return f"{value[0]:.1f}" if value[1] is None else f"{value[0]:.1f} ± {value[1]:.1f}"


def write_tables(
    folder: Path, categories: Mapping[str, Mapping[str, float | None]], config: RunConfig
) -> dict:
    """Writes metrics.json, metrics.csv and table.md, which has the published columns alone; returns what
    metrics.json holds."""
    mean = mean_metrics(categories)
    metrics = {"categories": dict(categories), "mean": mean}
    write_text(
        folder / "metrics.csv",
        csv_text(
            ["category", *ALL_METRICS],
            [
                [name, *(values.get(metric) for metric in ALL_METRICS)]
                for name, values in [*categories.items(), ("mean", mean)]
            ],
        ),
    )
    write_text(folder / "table.md", f"{metrics_table(categories)}\n\nPer cent. {framing(config)}\n")
    write_json(folder / "metrics.json", metrics)
    return metrics
