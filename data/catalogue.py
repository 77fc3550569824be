"""Datasets opened by name, their counts as a table, checks of their files, and the script that each module of
a dataset is: it scans, writes meta.json, and prints counts and problems."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from data.images import image_size
from data.masks import content_doubt, open_mask, rotation_doubt, size_doubt
from data.records import DATASETS, Catalogue, Counts, Layout, Record, layout_of, read_meta, write_meta
from utils.command_line import CommandLine
from utils.console import put_line, warn
from utils.errors import DataError
from utils.limits import MAX_PIXELS
from utils.text import natural_key, printable

CHECKING_THREADS = 8


def open_catalogue(dataset: str, root: str | Path, meta_file: str | Path | None = None) -> Catalogue:
    """The catalogue of a dataset (one of DATASETS): from meta_file, else root/meta.json, else by scanning.

    Writes nothing, so a read-only root will do. Raises DataError.
    """
    root = Path(root)
    if dataset not in DATASETS:
        raise DataError(f"--dataset {printable(dataset)}: is not known; choose one of {', '.join(DATASETS)}")
    if not root.is_dir():
        raise DataError(f"{printable(root)}: is not a folder; give {dataset}'s root with --data-path DIR")
    if meta_file is not None:
        return read_meta(meta_file, root)
    if (root / "meta.json").is_file():
        catalogue = read_meta(root / "meta.json", root)
        _warn_of_unlisted_categories(catalogue, root)
    else:
        catalogue = layout_of(dataset).scan(root)
        warn(catalogue.unused)
    return catalogue


def _warn_of_unlisted_categories(catalogue: Catalogue, root: Path) -> None:
    """Warns of folders that look like categories and are not in meta.json: datasets are often downloaded bit
    by bit."""
    listed = catalogue.categories

    def is_one(at: Path) -> bool:
        return (at / "train").is_dir() and (at / "test").is_dir() or (at / "Data/Images").is_dir()

    unlisted = sorted(one.name for one in root.iterdir() if one.name not in listed and is_one(one))
    if unlisted:
        share, names = f"{len(listed)} of {len(listed) + len(unlisted)}", ", ".join(map(printable, unlisted))
        file = root / "meta.json"
        warn([f"{file} lists {share} categories: {names} left out; delete it or write it again."])


def describe_catalogue(catalogue: Catalogue, dataset: str) -> str:
    """A table of image and mask counts per category, split and defect; a column compares them with the
    dataset's official ones, if any: "complete" or "n of m"."""
    official = layout_of(dataset).official
    rows = []
    for category in catalogue.categories:
        counts = official.get(category)
        rows += _category_rows(catalogue, category, counts, "not an official category" if official else "")
    headers = ["category", "split", "defect", "images", "masks"] + (["official"] if official else [])
    aligned = ["left"] * 3 + ["right"] * 2 + ["left"] * (len(headers) - 5)
    cells = [row[: len(headers)] for row in rows]
    table = tabulate(cells, headers, disable_numparse=True, colalign=aligned)
    absent = [category for category in official if category not in catalogue.categories]
    if absent:
        present = f"{len(official) - len(absent)} of {len(official)} official categories"
        table += f"\n{present}; absent: {', '.join(absent)}"
    return table


def _category_rows(catalogue: Catalogue, category: str, counts: Counts | None, unofficial: str) -> list:
    """Rows of one category. `unofficial`: the status of a category without official counts."""

    def row(split: str, defect: str, records: list[Record], expected: int | None) -> list[str]:
        count = len(records)
        masks = str(sum(bool(r.mask_path) for r in records)) if any(r.anomalous for r in records) else "-"
        status = "" if expected is None else "complete" if count == expected else f"{count} of {expected}"
        return [printable(category), split, printable(defect), str(count), masks, status]

    rows = []
    train_normal, test_normal, test_anomalous = counts or (None, None, None)
    for split, records in catalogue.splits(category):
        normal = [r for r in records if not r.anomalous]
        anomalous = [r for r in records if r.anomalous]
        rows.append(row(split, "good", normal, train_normal if split == "train" else test_normal))
        defects = sorted({r.defect for r in anomalous}, key=natural_key)
        rows += [row(split, defect, [r for r in anomalous if r.defect == defect], None) for defect in defects]
        if split == "test" and len(defects) == 1:
            rows[-1] = row(split, defects[0], anomalous, test_anomalous)
        elif split == "test" and (defects or counts):
            rows.append(row(split, "(all defects)", anomalous, test_anomalous))
    if counts is None:
        rows[0][-1] = unofficial
    return rows


def check_catalogue(catalogue: Catalogue, decode: bool = True, need_masks: bool = True) -> list[str]:
    """One sentence per problem, in the catalogue's order: categories without normal or test images, files
    that are missing or cannot be opened, defects without a mask, masks that are empty or of another size than
    their image.

    decode=False reads only the images' headers (masks are always decoded); need_masks=False accepts a kind
    of defect that has no mask at all. Nothing raises, nothing is changed.
    """
    problems = list(catalogue.unused)
    for category in catalogue.categories:
        (_, train), (_, test) = catalogue.splits(category)
        if not any(not record.anomalous for record in train):
            problems.append(f"category {printable(category)}: no normal training image, so no references")
        if not test:
            problems.append(f"category {printable(category)}: no test image")
    every = (r for c in catalogue.categories for _, part in catalogue.splits(c) for r in part)
    records = list(dict.fromkeys(every))
    masked = {(r.category, r.defect) for r in records if need_masks or r.mask_path}
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        checks = pool.map(
            lambda r: _check_record(catalogue.root, r, decode, (r.category, r.defect) in masked), records
        )
        for sentences in tqdm(checks, "checking", len(records), unit="img", disable=None, leave=False):
            problems += sentences
    return problems


def _check_record(root: Path, record: Record, decode: bool, need_mask: bool) -> list[str]:
    problems, size = [], None
    try:
        size = image_size(root / record.image_path, decode)
    except DataError as error:
        problems.append(str(error))
    if record.anomalous and not record.mask_path and need_mask:
        problems.append(f"{printable(root / record.image_path)}: anomalous image without a mask")
    elif record.mask_path:
        file = root / record.mask_path
        try:
            mask = open_mask(file)
        except DataError as error:
            return [*problems, f"mask of {printable(record.image_path)}: {error}"]
        doubts = [content_doubt(mask)]
        if size is not None:
            doubts.append(size_doubt(mask.size, size) or rotation_doubt(file, root / record.image_path))
        problems += [f"{printable(file)}: {doubt}" for doubt in doubts if doubt]
    return problems


def find_duplicates(root: Path, references: Iterable[Record], records: Iterable[Record]) -> list[str]:
    """One sentence per test image whose file is, byte for byte, one of the references; unreadable files are
    skipped."""

    def size(record: Record) -> int | None:
        path = root / record.image_path
        return path.stat().st_size if path.is_file() else None

    by_content = {(root / r.image_path).read_bytes(): r for r in references if size(r)}
    sizes = {len(content) for content in by_content}
    twins = ((r, by_content.get((root / r.image_path).read_bytes())) for r in records if size(r) in sizes)
    sentence = "{}: the same file as the reference {}".format
    return [sentence(printable(root / r.image_path), printable(one.image_path)) for r, one in twins if one]


def run_script(layout: Layout, root: Path | None, description: str, words: list[str] | None = None) -> int:
    """Writes a dataset's meta.json and prints its counts and problems; without a default `root` it writes
    nothing, and prints how the folder was understood. Returns the exit code (2: one sentence, no file).

    The layout's scan is called with the root and, where it takes one, the split file.
    """
    parser = CommandLine(description)
    if root is None:
        parser.add_argument("root", type=Path, metavar="DIR")
    else:
        parser.add_argument("root", nargs="?", type=Path, default=root, help=f"default: {root}")
        parser.add_argument("--meta", type=Path, help="write here instead of ROOT/meta.json")
    parser.add_argument("--quick", action="store_true", help="check only the headers of the images")
    limit = "an image of more pixels is refused; default: %(default)s"
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help=limit)
    takes_split = "split_csv" in inspect.signature(layout.scan).parameters
    if takes_split:
        parser.add_argument("--split-csv", type=Path, help="default: ROOT/split_csv/1cls.csv")
    options = parser.parse_args(words)
    try:
        catalogue = layout.scan(options.root, *([options.split_csv] if takes_split else []))
        if root is None:
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
        problems = check_catalogue(catalogue, not options.quick, layout.needs_masks)
    except KeyboardInterrupt:
        sys.exit(f"data/{layout.name}.py: the check was stopped; --quick checks only headers")
    heading = f"{len(problems)} problems:" if problems else "no problems found"
    put_line("\n".join([heading, *(f"  {problem}" for problem in problems)]))
    return 0
