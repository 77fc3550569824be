"""The paper's table from finished runs: mean and spread over seeds, with FDSL's and its rivals' published
rows.

    python -m fdsl.summarize results/fdsl

Reads results/MODEL/DATASET/Kshot/seedS/RUN/, prints Markdown and writes summary.md, summary.csv and
summary.json. Runs share a row only where everything but the seed is the same: settings, checkpoint, precision
and categories.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from fdsl.config.describe import SEES
from fdsl.evaluation.summary_rows import Row, find_runs, table_rows
from fdsl.metrics.exact import ALL_METRICS, METRIC_NAMES
from fdsl.report.published import DATASET_TITLES
from fdsl.report.tables import UNDEFINED, mean_and_spread, text_table, write_table
from utils.command import run_command
from utils.command_line import CommandLine
from utils.console import put
from utils.errors import ConfigError

logger = logging.getLogger("fdsl")


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
        parts += _dataset_part(dataset, [row for row in rows if row.dataset == dataset])
    if skipped:
        parts += [
            "## Skipped runs",
            "\n".join(f"- {_plain(name)}: {_plain(why)}" for name, why in skipped.items()),
        ]
    return "\n\n".join(parts) + "\n"


def _dataset_part(dataset: str, rows: Sequence[Row]) -> list[str]:
    """A dataset's title, table, warnings and sources."""
    warnings = [f"- {_plain(text)}." for text in warnings_of(rows)]
    by_origin = sorted(rows, key=lambda row: row.published)
    sources = dict.fromkeys(f"- {_plain(row.method)}: {_plain(row.source)}" for row in by_origin)
    return [
        f"## {_plain(DATASET_TITLES.get(dataset, dataset))}",
        _table(rows),
        *(["Warnings:\n\n" + "\n".join(warnings)] if warnings else []),
        "What was run, and where the published rows come from:\n\n" + "\n".join(sources),
    ]


def warnings_of(rows: Sequence[Row]) -> list[str]:
    """The warnings of a dataset's rows; what holds for all of several runs is said once."""
    own = [row for row in rows if not row.published]
    of_all = [text for text in own[0].warnings if all(text in row.warnings for row in own)] if own[1:] else []
    of_some = [
        f"{row.method}, {row.shots} shot(s): {text}"
        for row in own
        for text in row.warnings
        if text not in of_all
    ]
    return [f"all rows that are not published: {text}" for text in of_all] + of_some


def _table(rows: Sequence[Row]) -> str:
    sees = any(row.sees_test_set for row in rows)
    metrics = [name for name in ALL_METRICS if name in METRIC_NAMES or any(r.metrics[name] for r in rows)]
    lines = [
        [
            str(row.shots),
            _plain(row.method) + (" (published)" if row.published else ""),
            " ".join(map(str, row.seeds)),
            *([_sees_in_cell(row)] if sees else []),
            *(mean_and_spread(row.metrics[name]) for name in metrics),
        ]
        for row in rows
    ]
    head = ["shots", "method", "seeds", *([SEES] if sees else [])]
    return text_table(lines, [*head, *metrics], len(head))


def _sees_in_cell(row: Row) -> str:
    return UNDEFINED if row.published else "yes" if row.sees_test_set else "no"


def write_summary(output: Path, folder: Path, rows: Sequence[Row], skipped: Mapping[str, str]) -> str:
    """Writes summary.md, summary.csv and summary.json (per cent, all digits); returns the Markdown."""
    text = markdown(folder, rows, skipped)
    try:
        values = [_values(row) for row in rows]
        write_table(output / "summary", text, values, folder=str(folder), skipped=dict(skipped))
    except OSError as error:
        raise ConfigError(
            f"The summary cannot be written to {output} ({error.strerror}); "
            "name another folder with --output."
        ) from error
    return text


def _values(row: Row) -> dict[str, object]:
    """A row as CSV and JSON have it."""
    values = {**vars(row), "sees_test_set": None if row.published else row.sees_test_set}
    for name, value in values.pop("metrics").items():
        values |= dict(zip((f"{name}_mean", f"{name}_std"), value or (None, None)))
    return values


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
    for dataset in dict.fromkeys(row.dataset for row in rows):
        for text in warnings_of([row for row in rows if row.dataset == dataset]):
            logger.warning("warning: %s, %s", dataset, text)
    output = args.output or args.folder
    text = write_summary(output, args.folder, rows, skipped)
    put(text)
    logger.info("%d run(s) in %s", len(runs), output / "summary.md")


if __name__ == "__main__":
    run_command(main)
