"""The references that are stored in a detector, so that others can be added, and some be removed; and which
photographs are copies of one."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.images import is_wide
from data.inputs import list_images
from data.photographs import Photograph, as_photograph, pixel_digest
from utils.errors import ConfigError, DataError
from utils.limits import GreyRange
from utils.sources import held_in_memory, opened
from utils.text import one_line, printable

logger = logging.getLogger("fdsl")
MOST_BYTES = 2**28  # of all references' files together
FILE = "references.file."  # with its number, the name of a reference's tensor in a saved detector
DIGEST_DIGITS = 16
STEP = 16  # every so many pixels are compared first with those of a reference
MOST_COMPARED = 500  # references


@dataclass(frozen=True)
class StoredReference:
    """One normal image: its file's name and bytes, their digest, and the day on which it was
    fitted (YYYY-MM-DD)."""

    name: str
    digest: str
    day: str
    content: bytes

    @property
    def facts(self) -> tuple[str, str, str]:
        """Name, digest and day."""
        return self.name, self.digest, self.day


def to_store(
    photographs: Mapping[int, Photograph], before: Sequence[StoredReference] = ()
) -> list[StoredReference]:
    """The photographs, by their numbers among those that were given, as they are stored, each content once;
    those of `before` have the day that they had. [] where they take more than MOST_BYTES together."""
    days = {one.digest: one.day for one in before}
    by_digest: dict[str, StoredReference] = {}
    size = 0
    for number, photograph in photographs.items():
        name, content = _file_of(photograph, number)
        digest = _digest(content)
        if digest in by_digest:
            continue
        day = days.get(digest, date.today().isoformat())
        by_digest[digest] = StoredReference(name, digest, day, content)
        size += len(content)
        if size > MOST_BYTES:
            logger.info(
                "the references take more than %d MiB: they are not stored in the detector, and none can be "
                "added to it later",
                MOST_BYTES >> 20,
            )
            return []
    return list(by_digest.values())


def digest_of(photograph: Photograph, number: int = 1) -> str:
    """The digest that identifies a photograph; `number`: its place among several, for errors."""
    return _digest(_file_of(photograph, number)[1])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]


def _file_of(photograph: Photograph, number: int) -> tuple[str, bytes]:
    """A photograph's file name and bytes; a PNG where it is no file, of more than 8 bits a TIFF."""
    if isinstance(photograph, (str, Path)):
        try:
            return Path(photograph).name, opened(photograph).read()
        except (OSError, ValueError) as error:  # ValueError: the name holds a zero
            reason = one_line(getattr(error, "strerror", None) or error)
            raise DataError(f"{printable(photograph)}: cannot be read ({reason}); check the path") from error
    stream = io.BytesIO()
    if isinstance(photograph, Image.Image) and is_wide(photograph):  # its range is found from its values
        photograph.save(stream, "TIFF")
        return f"photograph {number}.tif", stream.getvalue()
    as_photograph(photograph).save(stream, "PNG", compress_level=1)
    return f"photograph {number}.png", stream.getvalue()


def tensors_of_references(references: Sequence[StoredReference]) -> dict[str, Tensor]:
    """The references' files as tensors of a saved detector."""
    return {
        f"{FILE}{number}": torch.from_numpy(np.frombuffer(one.content, np.uint8).copy())
        for number, one in enumerate(references)
    }


def stored_references(
    facts: Iterable[tuple[str, str, str]], tensors: Mapping[str, Tensor]
) -> list[StoredReference]:
    """The references in a saved detector, from the `facts` and the file of each."""
    return [
        StoredReference(name, digest, day, tensors[f"{FILE}{number}"].numpy().tobytes())
        for number, (name, digest, day) in enumerate(facts)
    ]


def without_named(references: Sequence[StoredReference], names: Iterable[str]) -> list[StoredReference]:
    """The references without those of these names or digests; ConfigError for a name that none of them has,
    or several, and where none is stored."""
    if not references:
        raise ConfigError(
            "This detector does not carry its references, so none can be added or taken out; make it anew "
            "from their photographs."
        )
    remaining = list(references)
    for name in names:
        others = [one for one in remaining if name not in (one.name, one.digest)]
        if len(others) < len(remaining) - 1:
            which = ", ".join(f"{one.digest} ({one.day})" for one in remaining if one.name == name)
            raise ConfigError(
                f"--forget {printable(name)}: which of the {len(remaining) - len(others)} references of this "
                f"name? Give a digest: {which}."
            )
        if len(others) == len(remaining):
            listed = ", ".join(printable(one.name) for one in remaining[:5])
            raise ConfigError(
                f"--forget {printable(name)} is none of the references ({listed or 'there are none'})."
            )
        remaining = others
    return remaining


class ReferenceCopies:
    """References by their pixels, so that their copies are recognised under other names and in other formats:
    those that a detector carries, else the `files` that were given. `grey`: the range of its reader."""

    def __init__(
        self, stored: Sequence[StoredReference], files: Sequence[str], grey: GreyRange | None
    ) -> None:
        self._names: dict[bytes, tuple[str, str]] = {}
        carried = [(one.name, one.content) for one in stored[:MOST_COMPARED]]
        with held_in_memory(carried) as held:
            for path in held or (list_images(files)[:MOST_COMPARED] if files else ()):
                try:
                    photo = as_photograph(path, grey)
                except DataError:
                    continue  # it has changed since
                self._names[_some_of(photo)] = pixel_digest(photo), printable(path.name)

    def name_of(self, photo: Image.Image) -> str | None:
        """The name of the reference whose pixels an RGB photograph has; None for any other."""
        whole, name = self._names.get(_some_of(photo), ("", None)) if self._names else ("", None)
        return name if name is not None and pixel_digest(photo) == whole else None


def _some_of(photo: Image.Image) -> bytes:
    some = photo.resize([max(1, side // STEP) for side in photo.size], Image.Resampling.NEAREST)
    return hashlib.blake2b(some.tobytes() + repr(photo.size).encode(), digest_size=16).digest()
