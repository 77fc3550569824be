"""The modules of datasets as scripts: they scan, write meta.json, and print counts and problems."""

import inspect
import sys
from pathlib import Path

from data.catalogue import check_catalogue, describe_catalogue
from data.meta import write_meta
from data.records import Layout
from utils.command_line import CommandLine
from utils.console import put_line
from utils.errors import DataError
from utils.limits import MAX_PIXELS
from utils.text import printable


def run_script(
    layout: Layout, default_root: Path | None, description: str, arguments: list[str] | None = None
) -> int:
    """Writes a dataset's meta.json and prints its counts and problems; without a default root it writes
    nothing, and prints how the folder was understood. Returns the exit code (2: one sentence, no file).

    The layout's scan is called with the root and, where it takes one, the split file.
    """
    parser = CommandLine(description)
    if default_root is None:
        parser.add_argument("root", type=Path, metavar="DIR")
    else:
        parser.add_argument(
            "root", nargs="?", type=Path, default=default_root, help=f"default: {default_root}"
        )
        parser.add_argument("--meta", type=Path, help="write here instead of ROOT/meta.json")
    parser.add_argument("--quick", action="store_true", help="check only the headers of the images")
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="an image of more pixels is refused; default: %(default)s",
    )
    takes_split = "split_csv" in inspect.signature(layout.scan).parameters
    if takes_split:
        parser.add_argument("--split-csv", type=Path, help="default: ROOT/split_csv/1cls.csv")
    options = parser.parse_args(arguments)
    try:
        catalogue = layout.scan(options.root, *([options.split_csv] if takes_split else []))
        if default_root is None:
            put_line("\n".join(catalogue.rules))
        else:
            file = options.meta or options.root / "meta.json"
            write_meta(catalogue, file)
            put_line(f"wrote {printable(file)}")
    except DataError as error:
        put_line(f"data/{layout.name}.py: {error}", sys.stderr)
        return 2
    put_line(describe_catalogue(catalogue, layout.name))
    try:
        problems = check_catalogue(
            catalogue, not options.quick, need_masks=layout.needs_masks, progress=sys.stderr.isatty()
        )
    except KeyboardInterrupt:
        sys.exit(f"data/{layout.name}.py: the check was stopped; --quick checks only headers")
    heading = f"{len(problems)} problems:" if problems else "no problems found"
    put_line("\n".join([heading, *(f"  {problem}" for problem in problems)]))
    return 0
