"""Photographs to inspect: the names and paths of files, folders, patterns, archives and lists, and the file
that stores them in their order: the inputs are walked once, the list is read often."""

from __future__ import annotations

import glob
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from data.images import IMAGE_SUFFIXES
from data.listing import is_folder, visible_entries, why_unread
from utils.errors import DataError
from utils.files import CONFIG, is_made_by
from utils.sources import SAVE_PICTURES, contents_of, is_archive, is_camera, is_file, refuse_compressed
from utils.text import as_key, decoded, printable, without_password

logger = logging.getLogger("fdsl")
PREDICTIONS = "predict.py"  # `made_by` in the config.json of a folder that predict.py wrote,
RENDERED = ("pictures", "masks", "contact_sheet.jpg")  # and its pictures there
_warned: set[str] = set()
PathAndReason = tuple[str, str]  # a path, and the reason why it cannot be read, "" for a photograph


class Listed(NamedTuple):
    """A photograph's name and path; without a path, the reason why it cannot be read. `done`: an earlier run
    has scored it."""

    name: str
    path: Path | None
    reason: str = ""
    done: bool = False


def find_images(inputs: Sequence[str | Path], without: Sequence[str | Path] = ()) -> Iterator[Listed]:
    """Every photograph of `inputs`, each a file, a folder (searched recursively), a pattern, a tar archive,
    or @FILE, a list of files with a path on each line, relative to the list. Folders that cannot be read, and
    photographs of a format that is not read, come among them without a path.

    A generator in natural order: only one folder's names are in memory at a time. Names are relative to the
    one input folder, or the paths as given where there are several inputs. Folders in `without`, hidden
    folders and pictures that predict.py rendered are skipped, and no file is given twice. DataError for a
    missing input.
    """
    left_out = {os.path.realpath(folder) for folder in without}
    given_before: set[int | None] = set()
    may_repeat = len(inputs) > 1 or not all(os.path.lexists(given) for given in inputs)
    for given in inputs:
        text = os.fspath(given)
        if is_camera(text):
            raise _missing(text)
        if os.path.isdir(text):
            root, paths = text, _walk(text, left_out)
        elif os.path.lexists(text):
            root, paths = os.path.dirname(text), _file(text)
        elif _is_list(text):
            root, paths = os.path.dirname(text[1:]), _lines(text[1:])
        elif glob.has_magic(text):
            root = _fixed_part(text)
            parts = os.path.relpath(text, root or ".").split(os.sep)
            paths = _match(root or ".", parts, left_out)
        else:
            raise _missing(text)
        for path, reason in paths:
            place = hash(os.path.abspath(path)) if may_repeat else None
            if reason:
                yield Listed(as_key(path), None, reason)
            elif place is None or place not in given_before:
                given_before.add(place)
                name = path if len(inputs) > 1 else _relative(path, root or ".")
                yield Listed(as_key(name.replace(os.sep, "/")), Path(path))


def _relative(path: str, root: str) -> str:
    """A path relative to the folder of its input; unchanged where it lies outside."""
    relative = os.path.relpath(path, root)
    return path if relative.startswith(os.pardir + os.sep) else relative


def _is_list(text: str) -> bool:
    """Whether an input is @FILE."""
    return text.startswith("@") and os.path.isfile(text[1:])


def _lines(file: str) -> Iterator[PathAndReason]:
    """The files of a list, one on each line; an archive is replaced by its photographs."""
    try:
        with open(file, "rb") as content:
            text = decoded(content.read(), "surrogateescape")
    except ValueError as error:
        raise DataError(f"@{printable(file)}: {error}") from error
    for line in re.split(r"[\r\n]+", text):
        if line.strip():
            yield from _file(_named(os.path.dirname(file), line.strip()))


def _named(folder: str, line: str) -> str:
    """The path of a list's line, whichever exists: unchanged, without quotes, with / for each backslash, or
    as Windows' Western code page reads its bytes."""
    bare = line[1:-1] if len(line) > 2 and line[0] == line[-1] and line[0] in "\"'" else line
    western = bare.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    texts = (line, bare, bare.replace("\\", "/"), western, western.replace("\\", "/"))
    paths = [os.path.join(folder, text) for text in texts]
    return next((path for path in paths if os.path.lexists(path) or is_file(path)), paths[1])


def _file(path: str) -> Iterator[PathAndReason]:
    """The file itself, or the photographs in an archive."""
    refuse_compressed(path)
    if not is_archive(path):
        yield path, ""
        return
    members, unread = contents_of(path)
    for name, reason in [*((name, "") for name in members), *unread.items()]:
        if _is_photograph(name):
            yield f"{path}{os.sep}{name}", reason


def _is_photograph(name: str) -> bool:
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


def refuse_missing(inputs: Sequence[str | Path]) -> None:
    """DataError for a missing input; nothing is searched."""
    for given in map(os.fspath, inputs):
        there = os.path.lexists(given) or _is_list(given) or glob.has_magic(given)
        if is_camera(given) or not there:
            raise _missing(given)


def _missing(given: str) -> DataError:
    if is_camera(given):
        return DataError(
            f"{printable(without_password(given))}: cameras and streams are read by predict.py --input "
            f"alone; let another program {SAVE_PICTURES}"
        )
    if given.startswith("@"):
        return DataError(f"{printable(given)}: there is no list {printable(given[1:])}; check the path")
    return DataError(f"{printable(given)}: is no file, no folder and no pattern; check the path")


def list_images(inputs: str | Path | Sequence[str | Path]) -> list[Path]:
    """The photographs of files, folders and patterns as a list, each once; DataError when there is none."""
    inputs = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    paths = list(dict.fromkeys(item.path for item in find_images(inputs) if item.path is not None))
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{', '.join(map(printable, inputs))}: holds no photograph ({suffixes})")
    return paths


def _fixed_part(pattern: str) -> str:
    """The folder of a pattern before its first wildcard."""
    parts = re.split(r"(?<=/)", pattern.replace(os.sep, "/"))
    fixed = []
    for part in parts[:-1]:
        if glob.has_magic(part) and not os.path.isdir("".join([*fixed, part])):
            break  # a folder may be called `line [new]`
        fixed.append(part)
    return "".join(fixed)


def _entries(folder: str) -> tuple[list[os.DirEntry], list[PathAndReason]]:
    """A folder's visible entries in natural order; none, and the reason, where it cannot be read."""
    try:
        entries = visible_entries(folder)
    except OSError as error:
        return [], [(folder, f"the folder cannot be read ({error.strerror})")]
    others = [entry for entry in entries if entry.name not in RENDERED]
    return others if len(others) < len(entries) and _holds_results(folder) else entries, []


def _image(entry: os.DirEntry) -> Iterator[PathAndReason]:
    """The file, if it is a photograph, also of a format that is not read."""
    suffix = os.path.splitext(entry.name)[1].lower()
    reason = why_unread(suffix)
    if reason or suffix in IMAGE_SUFFIXES:
        yield entry.path, reason


def _holds_results(folder: str) -> bool:
    """Whether predict.py wrote into the folder; logged once."""
    holds_results = is_made_by(Path(folder, CONFIG), PREDICTIONS)
    if holds_results and os.path.realpath(folder) not in _warned:
        _warned.add(os.path.realpath(folder))
        logger.info("%s holds results of predict.py: their pictures are not inspected", printable(folder))
    return holds_results


def _walk(folder: str, left_out: set[str], above: tuple[str, ...] = ()) -> Iterator[PathAndReason]:
    """Every image below `folder`, those of a folder before those of its folders. Links to a folder above are
    not followed."""
    real = os.path.realpath(folder)
    if real in left_out or real in above:
        return
    folders = []
    entries, unread = _entries(folder)
    yield from unread
    for entry in entries:
        if is_folder(entry):
            folders.append(entry.path)
        else:
            yield from _image(entry)
    for inner in folders:
        yield from _walk(inner, left_out, (*above, real))


def _match(folder: str, parts: list[str], left_out: set[str]) -> Iterator[PathAndReason]:
    """Every image below `folder` whose path matches the pattern's parts; `**`: any number of folders."""
    if os.path.realpath(folder) in left_out:
        return
    first, rest = parts[0], parts[1:]
    if parts == ["**"]:
        yield from _walk(folder, left_out)
        return
    if first == "**":
        yield from _match(folder, rest, left_out)
    entries, unread = _entries(folder)
    yield from unread if first != "**" else ()
    for entry in entries:
        if first == "**":
            if is_folder(entry) and not entry.is_symlink():
                yield from _match(entry.path, parts, left_out)
        elif not fnmatch(entry.name, first):
            continue
        elif is_folder(entry):
            yield from _match(entry.path, rest, left_out) if rest else _walk(entry.path, left_out)
        elif not rest:
            yield from _file(entry.path) if is_archive(entry.path) else _image(entry)


def write_list(file: Path, items: Iterable[Listed]) -> int:
    """Writes a line for each item; returns the number of those that are not done."""
    count = 0
    with open(file, "wb") as lines:
        for item in items:
            count += not item.done
            path = None if item.path is None else str(item.path)
            lines.write(json.dumps([item.name, path, item.reason, item.done]).encode() + b"\n")
    return count


def read_list(file: Path) -> Iterator[Listed]:
    """The items that `write_list` wrote."""
    with open(file, "rb") as lines:
        for line in lines:
            name, path, *more = json.loads(line)
            yield Listed(name, None if path is None else Path(path), *more)


def share_of(items: Iterable[Listed], batch_size: int, rank: int, size: int) -> Iterator[Listed]:
    """What process `rank` of `size` scores: of the batches that one process would score, every `size`-th."""
    waiting = (item for item in items if not item.done)
    return (item for number, item in enumerate(waiting) if number // batch_size % size == rank)
