"""Uploaded photographs: checked, stored in a temporary folder, sent back as small JPEGs."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore

from PIL import Image

from data.images import open_image
from data.masks import key, unmarked
from utils.errors import ConfigError, DataError
from utils.grey_range import GreyRange
from utils.lock import locked
from utils.text import printable

PREFIX = "fdsl-page-"
LOCK = ".lock"
SIDE = 1600  # pixels: the longest side of a picture that goes to the browser
JPEG_QUALITY = 88
NAME_LENGTH = 200
DECODERS = BoundedSemaphore(2)  # a photograph of 100 megapixels takes 300 MB while it is decoded


@dataclass
class Upload:
    """A photograph that was uploaded: the user's name for it, where it lies, its (width, height) upright."""

    number: int
    name: str
    file: Path
    size: tuple[int, int]

    def open(self, grey: GreyRange | None = None, most: int | None = None) -> Image.Image:
        """The photograph as RGB, upright, with a longest side of at most `most` pixels; KeyError when it was
        removed meanwhile."""
        with DECODERS:
            if not self.file.exists():
                raise KeyError(self.number)
            photo = open_image(self.file, grey)
            if most is not None and max(photo.size) > most:
                size = [max(1, round(side * most / max(photo.size))) for side in photo.size]
                photo = photo.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
            return photo


def receive(content: bytes, number: int, name: str, folder: Path) -> Upload:
    """Stores an upload that is a photograph as `folder`/`number`; DataError, and nothing is stored, for
    anything else.

    KeyError where the folder is gone: its visitor has left.
    """
    name = plain_name(name)
    file = folder / f"{number}.upload"
    try:
        file.write_bytes(content)
        with DECODERS:
            photo = open_image(file)
    except DataError as error:
        file.unlink(missing_ok=True)
        raise DataError(f"{name}: {str(error).removeprefix(f'{printable(file)}: ')}") from error
    except FileNotFoundError as error:
        raise KeyError(number) from error
    except OSError:
        file.unlink(missing_ok=True)
        raise
    return Upload(number, name, file, photo.size)


def plain_name(name: str) -> str:
    """What the browser calls a file, as a label: its last part, on one line, not too long. It never names a
    file here."""
    return printable(name.replace("\\", "/").rsplit("/", 1)[-1])[-NAME_LENGTH:].strip() or "photograph"


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder of this process's own, also for the standard library's temporary files; gone after
    the block.

    What an earlier process that was killed left behind is removed first.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ConfigError):
            if _is_ours(left):
                with locked(left / LOCK, str(left), "wait"):
                    shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        with locked(folder / LOCK, str(folder), "wait"):
            yield folder
    finally:
        tempfile.tempdir = before
        remove(folder)


def _is_ours(folder: Path) -> bool:
    """Whether this user made the folder: in a shared /tmp others could lay a link or a folder of that name
    for us."""
    state = folder.lstat()
    return stat.S_ISDIR(state.st_mode) and (not hasattr(os, "getuid") or state.st_uid == os.getuid())


def remove(folder: Path) -> None:
    """Removes a folder that others may still be writing to."""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return


def refuse_mask(name: str, others: Iterable[str]) -> None:
    """DataError for a file that is called as the mask of a photograph which is here: it is none itself."""
    stem = unmarked(Path(plain_name(name)).stem)
    photo = next((one for one in others if stem and key(Path(one).stem) == key(stem)), None)
    if photo is not None:
        raise DataError(f"{plain_name(name)}: is called as the mask of {photo}; only photographs are taken")


def holds(upload: Upload, content: bytes) -> bool:
    """Whether an upload is this file."""
    return upload.file.stat().st_size == len(content) and upload.file.read_bytes() == content


def unused_name(name: str, taken: Collection[str]) -> str:
    """The name, with a number before its ending where it is taken."""
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, dot + ending) if stem else (name, "")
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{stem} ({number}){ending}"
    return candidate


def zipped(folder: Path, file: Path) -> Path:
    """Packs a folder's visible files into a ZIP file; returns it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # almost all of it is JPEG
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                archive.write(path, path.relative_to(folder).as_posix())
    return file
