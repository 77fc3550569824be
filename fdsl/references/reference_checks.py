"""Which of the given references are used: near copies once, and none that shows no part."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from data.photographs import pixel_digest
from data.tensors import image_to_pixels
from utils.image_statistics import PER_IMAGE, implausible_references, reasons_among, statistics_of

logger = logging.getLogger("fdsl")
SIDE = 64  # pixels, of the thumbnails that are compared
# Grey levels, root mean square: the largest difference of near copies' thumbnails, and the largest remainder
# of it that neither other light nor a small shift explains.
NEAR_COPY, NEAR_COPY_REMAINDER = 10.0, 1.0


def usable_references(photographs: Sequence[Image.Image], names: Sequence[str], side: int) -> list[int]:
    """The indices of the RGB photographs that are used, in the order of their digests; warns of the others.

    So the same photographs give the same detector, in whatever order they are given. Of near copies (copies,
    a burst, frames of a part at rest) one is used, for they would score as if normal images did not vary. One
    that shows no part, by its `statistics_of` at `side` pixels compared with the others', would make such
    frames normal; where that may be either, both are used.
    """
    thumbnails: dict[int, Thumbnail] = {}
    for number in sorted(range(len(photographs)), key=lambda one: pixel_digest(photographs[one])):
        own = Thumbnail(photographs[number])
        first = next((one for one, other in thumbnails.items() if other.shows_the_same_as(own)), None)
        if first is None:
            thumbnails[number] = own
        else:
            logger.warning(
                "warning: %s shows the same as %s: they count as one reference", names[number], names[first]
            )
    numbers = list(thumbnails)
    statistics = statistics_of_references([photographs[number] for number in numbers], side)
    implausible = implausible_references(statistics)
    for place, reason in implausible.items():
        logger.warning("warning: %s is left out of the references: %s", names[numbers[place]], reason)
    for place, reason in ({} if implausible else reasons_among(statistics)).items():
        logger.warning(
            "warning: %s is used, although compared with the other references it is not like them (%s): "
            "check which are right",
            names[numbers[place]],
            reason,
        )
    return [number for place, number in enumerate(numbers) if place not in implausible]


class Thumbnail:
    """A small, slightly blurred copy of an RGB photograph, and a basis of its changes by light or a shift."""

    def __init__(self, photo: Image.Image) -> None:
        small = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
        own = self.pixels = cv2.GaussianBlur(small, (3, 3), 0)
        changes = np.stack([np.ones_like(own), own, own**2, *np.gradient(own, axis=(0, 1))])
        self.changes = np.linalg.qr(changes.reshape(len(changes), -1).T)[0]

    def shows_the_same_as(self, other: Thumbnail) -> bool:
        difference = (other.pixels - self.pixels).ravel()
        if _rms(difference) >= NEAR_COPY:
            return False
        remainder = difference - self.changes @ (self.changes.T @ difference)
        return _rms(remainder) < NEAR_COPY_REMAINDER


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def statistics_of_references(photographs: Sequence[Image.Image], side: int) -> np.ndarray:
    """(K,11): the `statistics_of` each photograph, resized to side x side pixels."""
    rows = [statistics_of(image_to_pixels(photo, side).numpy()) for photo in photographs]
    return np.stack(rows) if rows else np.empty((0, PER_IMAGE))
