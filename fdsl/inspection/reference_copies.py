"""The references and calibration images of a detector, so that one of them, or a copy, is named among its
inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image

from data.inputs import list_images
from data.photographs import as_photograph, pixel_digest
from fdsl.api import AnomalyDetector
from utils.archives import held_in_memory
from utils.errors import DataError
from utils.text import printable

STEP = 16  # every so many pixels are compared first
MOST = 500  # references that are looked at


class ReferenceCopies:
    """A detector's references by their pixels, so that their copies are recognised under other names and in
    other formats. The references that it carries, else the files `references` that were given."""

    def __init__(self, detector: AnomalyDetector, references: Sequence[str] = ()) -> None:
        self._names: dict[bytes, tuple[str, str]] = {}
        carried = [(one.name, one.content) for one in detector.stored[:MOST]]
        with held_in_memory(carried) as held:
            for path in held or (list_images(references)[:MOST] if references else ()):
                try:
                    photo = as_photograph(path, detector.reader.grey)
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
