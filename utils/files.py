"""Files that are written whole or not at all, and output folders, of which a program writes over nothing that
another one wrote."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from utils.errors import ConfigError
from utils.sources import facts_of, opened
from utils.text import printable

BYTE_ORDER_MARK = "\ufeff"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
SAMPLES, SAMPLE_BYTES = 256, 4096  # pieces of a file that `sampled_digest` reads, and the bytes of each
TEMPORARY = ".tmp"
CONFIG = "config.json"  # of an output folder: it names the program that wrote it
CHECKSUM = "checksum"  # its name in the metadata of a file of tensors (fdsl/store/tensor_file.py)
HANDLES = "/proc/self/fd"  # the open files of this process, on Linux
# Names that are no Unicode are escaped, as JSON reads them back.
TEXT = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
LEFTOVER = re.compile(r"\..{1,40}\.[a-z0-9_]{8}\.tmp", re.DOTALL)  # as whole_file names them


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file next to `path` that takes its name only after the block ended without an error
    and the file is on the disk.

    An OSError (disk full, no permission) names `path`, whose previous content stays. Where the system has
    files without names, the file gets a name only once it is complete: a killed process leaves nothing.
    ConfigError for a device or a pipe, which the file would replace.
    """
    path, temporary = Path(path), None
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"{printable(path)} is a device or a pipe; name a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _nameless(path.parent)
        if handle is None:
            handle, temporary = _named(path)
        with os.fdopen(handle, mode, **({} if "b" in mode else TEXT)) as file:
            yield file
            flush_to_disk(file)
            if temporary is None:
                temporary = _given_a_name(file.fileno(), path)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            if error.filename is None or Path(str(error.filename)).name.startswith(_prefix(path)):
                raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _nameless(folder: Path) -> int | None:
    """A handle of a new file without a name in a folder; None where the system has no such files."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not os.path.isdir(HANDLES):
        return None
    try:
        return os.open(folder, flag | os.O_RDWR, 0o666)
    except OSError:  # of the file system or the folder: raised again when a named file is made there
        return None


def _named(path: Path) -> tuple[int, str]:
    """A handle of a new file next to `path`, and its name."""
    temporary = _temporary(path)
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), temporary


def _temporary(path: Path) -> str:
    return os.fspath(path.with_name(f"{_prefix(path)}{uuid.uuid4().hex[:8]}{TEMPORARY}"))


def _given_a_name(handle: int, path: Path) -> str:
    """Gives a complete file without a name a temporary name next to `path`."""
    temporary = _temporary(path)
    try:
        # With the number of a folder, here of any, Python follows the link to the file.
        os.link(f"{HANDLES}/{handle}", temporary, src_dir_fd=handle, follow_symlinks=True)
        return temporary
    except OSError:
        copy, temporary = _named(path)
    try:
        with os.fdopen(copy, "wb") as file, open(os.dup(handle), "rb") as whole:
            whole.seek(0)
            shutil.copyfileobj(whole, file, 2**20)
            flush_to_disk(file)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


def _prefix(path: Path) -> str:
    return f".{path.name[:40]}."


def remove_leftovers(*paths: Path) -> None:
    """Removes the temporary files that a killed process left next to `paths`; nobody else may be writing
    them."""
    for path in paths:
        with contextlib.suppress(OSError):
            for entry in list(path.parent.iterdir()):
                if entry.name.startswith(_prefix(path)) and entry.name.endswith(TEMPORARY):
                    entry.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder so that under its name it is either complete or gone: it is renamed first."""
    doomed = folder.with_name(f"{folder.name}{TEMPORARY}")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.is_dir():
        os.replace(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Brings a folder's entries to the disk: files renamed in it before this call outlive a power cut."""
    with contextlib.suppress(OSError):  # Windows opens no folders, some file systems sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with whole_file(path) as file:
        file.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all."""
    with whole_file(path, "wb") as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON; numbers that are not finite are an error (ValueError), not invalid
    JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(out: IO[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes CSV with a header to a UTF-8 file, row by row: first the mark that spreadsheets look for. Text
    cells that a spreadsheet would run as a formula get a leading apostrophe."""
    out.write(BYTE_ORDER_MARK)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(csv_cells(row))


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of `write_csv`, without columns that are empty in every row."""
    table = [dict(zip(columns, row)) for row in rows]
    filled = [name for name in columns if not table or any(row[name] not in (None, "") for row in table)]
    buffer = io.StringIO()
    write_csv(buffer, filled, ([row[name] for name in filled] for row in table))
    return buffer.getvalue()


def as_cell(name: str) -> str:
    """A photograph's name as a cell of a table: one that a spreadsheet would run as a formula begins with ./,
    so that it still names the file."""
    return f"./{name}" if name.startswith(FORMULA_STARTS) else name


def csv_cells(row: Iterable[Any]) -> list[Any]:
    """A row as `write_csv` writes it."""
    return [_cell(value) for value in row]


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()  # as in JSON
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return "'" + value
    return value


def short_digest(value: str) -> str:
    """Six hex digits that distinguish values in a folder's name."""
    return hashlib.sha256(value.encode()).hexdigest()[:6]


def parsed_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError for any other text, and for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(file: Path) -> Any:
    """A JSON file's content; None where it is missing or not JSON."""
    try:
        return parsed_json(file.read_bytes().decode("utf-8"))
    except (OSError, ValueError):
        return None


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with opened(file) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


Stamp = dict[str, Any]  # as `stamp_of` makes it


def stamp_of(file: Path) -> Stamp:
    """What identifies a file's content: bytes, time of its last change (ns), and the first 16 hex digits of
    its SHA-256. OSError where it cannot be read."""
    facts = facts_of(file)
    return {"bytes": facts.size, "modified": facts.modified, "digest": content_digest(file)}


def content_digest(file: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    return file_digest(file)[:16]


def flush_to_disk(file: IO[Any]) -> None:
    """Brings the content of an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sampled_digest(file: Path) -> str:
    """Hex digest of a file's size and of SAMPLES pieces of it: distinguishes weights files without reading
    all of them; "" where there is no file."""
    if not file.is_file():
        return ""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as content:
        for piece in range(SAMPLES):
            content.seek(size * piece // SAMPLES)
            digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def is_made_by(file: Path, made_by: str) -> bool:
    """Whether a JSON file names this program as its writer."""
    stored = read_json(file)
    return isinstance(stored, dict) and stored.get("made_by") == made_by


def refuse_foreign(folder: Path, names: Sequence[str], made_by: str) -> None:
    """ConfigError for a folder with files of these names that another program wrote."""
    others = [name for name in names if (folder / name).exists()]
    if others and not is_made_by(folder / CONFIG, made_by):
        raise foreign(folder, ", ".join(others), made_by)


def foreign(folder: Path, what: str, made_by: str) -> ConfigError:
    return ConfigError(
        f"--output {printable(folder)} holds {what}, which {made_by} did not write; name another folder."
    )
