"""data/mvtec.py and data/visa.py as scripts: they scan, write meta.json, and print counts and problems."""

import argparse
import inspect
import sys
from pathlib import Path

from data.catalogue import table_of_counts
from data.check import check_catalogue
from data.datasets import Layout
from data.images import MAX_PIXELS
from data.meta import write_meta
from data.records import Catalogue
from utils.command_line import CommandLine
from utils.console import put_line
from utils.errors import DataError
from utils.text import printable


def run_script(
    layout: Layout, default_root: Path, description: str, arguments: list[str] | None = None
) -> int:
    """Writes a dataset's meta.json and prints its counts and problems; returns the exit code (2: one
    sentence, no file).

    The layout's scan is called with the root and, where it takes one, the split file.
    """
    parser = CommandLine(description)
    parser.add_argument("root", nargs="?", type=Path, default=default_root, help=f"default: {default_root}")
    parser.add_argument("--meta", type=Path, help="write here instead of ROOT/meta.json")
    add_check_flags(parser)
    takes_split = "split_csv" in inspect.signature(layout.scan).parameters
    if takes_split:
        parser.add_argument("--split-csv", type=Path, help="default: ROOT/split_csv/1cls.csv")
    options = parser.parse_args(arguments)
    try:
        catalogue = layout.scan(options.root, *([options.split_csv] if takes_split else []))
        file = options.meta or options.root / "meta.json"
        write_meta(catalogue, file)
    except DataError as error:
        put_line(f"data/{layout.name}.py: {error}", sys.stderr)
        return 2
    put_line(f"wrote {printable(file)}")
    print_catalogue(catalogue, layout, options)
    return 0


def add_check_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that print_catalogue reads."""
    parser.add_argument("--quick", action="store_true", help="check only the headers of the images")
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="an image of more pixels is refused; default: %(default)s",
    )


def print_catalogue(catalogue: Catalogue, layout: Layout, options: argparse.Namespace) -> None:
    """Prints the table of counts and every problem; `options`: the flags of add_check_flags. Ctrl-C ends the
    script."""
    put_line(table_of_counts(catalogue, layout.official))
    try:
        problems = check_catalogue(
            catalogue,
            not options.quick,
            need_masks=layout.needs_masks,
            progress=sys.stderr.isatty(),
            max_pixels=options.max_pixels,
        )
    except KeyboardInterrupt:
        sys.exit(f"data/{layout.name}.py: the check was stopped; --quick checks only headers")
    heading = f"{len(problems)} problems:" if problems else "no problems found"
    put_line("\n".join([heading, *(f"  {problem}" for problem in problems)]))
