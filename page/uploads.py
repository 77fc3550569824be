"""Uploaded photographs: checked, named, and stored in a temporary folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from PIL import Image

from data.images import open_image
from data.masks import key, unmarked
from utils.errors import DataError
from utils.limits import GreyRange
from utils.text import printable

NAME_LENGTH = 200
DECODERS = BoundedSemaphore(2)  # a photograph of 100 megapixels takes 300 MB while it is decoded


@dataclass
class Upload:
    """A photograph that was uploaded: the user's name for it, where it lies, its (width, height) upright."""

    kind: str
    number: int
    name: str
    file: Path
    size: tuple[int, int]

    @property
    def row(self) -> dict[str, Any]:
        """What the page displays of it, as JSON values."""
        return {"number": self.number, "name": self.name, "width": self.size[0], "height": self.size[1]}

    def open(self, grey: GreyRange | None = None, most: int | None = None) -> Image.Image:
        """The photograph as RGB, upright, with a longest side of at most `most` pixels; KeyError when it was
        removed meanwhile."""
        with DECODERS:
            if not self.file.exists():
                raise KeyError(self.number)
            photo = open_image(self.file, grey)
            if most is not None:
                photo.thumbnail((most, most), Image.Resampling.BOX)
            return photo

    def holds(self, content: bytes) -> bool:
        """Whether it is this file."""
        return self.file.stat().st_size == len(content) and self.file.read_bytes() == content


def receive(content: bytes, kind: str, number: int, name: str, folder: Path) -> Upload:
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
    return Upload(kind, number, name, file, photo.size)


def plain_name(name: str) -> str:
    """What the browser calls a file, as a label: its last part, on one line, not too long. It never names a
    file here."""
    return printable(name.replace("\\", "/").rsplit("/", 1)[-1])[-NAME_LENGTH:].strip() or "photograph"


def refuse_mask(name: str, others: Iterable[str]) -> None:
    """DataError for a file that is called as the mask of a photograph which is here: it is none itself."""
    stem = unmarked(Path(plain_name(name)).stem)
    photo = next((one for one in others if stem and key(Path(one).stem) == key(stem)), None)
    if photo is not None:
        raise DataError(f"{plain_name(name)}: is called as the mask of {photo}; only photographs are taken")


def unused_name(name: str, taken: Collection[str]) -> str:
    """The name, with a number before its ending where it is taken."""
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, dot + ending) if stem else (name, "")
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{stem} ({number}){ending}"
    return candidate
