"""Which of the given references count: near copies once, and none that shows no part."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from data.tensors import image_to_pixels
from utils.image_statistics import PER_IMAGE, implausible_references, reason_of, statistics_of

logger = logging.getLogger("fdsl")
SIDE = 64  # pixels: of the thumbnails that tell near copies
# Grey levels, root mean square: how far thumbnails of near copies differ at most, and what is left of it at
# most once a little more light and a small shift are taken off.
NEAR_COPY, NEAR_COPY_REMAINDER = 10.0, 1.0


def usable_references(photographs: Sequence[Image.Image], names: Sequence[str], side: int) -> list[int]:
    """Which of the RGB photographs count, by their places; says what is left out and why.

    A photograph that nearly repeats an earlier one (a copy, a burst, frames of a part at rest) would be
    scored by that one as if normal images were all alike. One that shows no part, by its `statistics_of` at
    `side` pixels next to the others', would make such frames normal.
    """
    kept: dict[int, Thumbnail] = {}
    for number, photo in enumerate(photographs):
        own = Thumbnail(photo)
        first = next((one for one, other in kept.items() if other.shows_the_same_as(own)), None)
        if first is None:
            kept[number] = own
        else:
            logger.warning(
                "warning: %s shows the same as %s: they count as one reference", names[number], names[first]
            )
    places = list(kept)
    found = statistics_of_references([photographs[number] for number in places], side)
    odd = implausible_references(found)
    for place in odd:
        reason = reason_of(found[place], np.delete(found, odd, axis=0))
        logger.warning("warning: %s is left out of the references: %s", names[places[place]], reason)
    return [number for place, number in enumerate(places) if place not in odd]


class Thumbnail:
    """A small, slightly blurred copy of an RGB photograph, and what another light or a shift would change."""

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
    """(K,6): the `statistics_of` each photograph, resized to side x side pixels."""
    found = [statistics_of(image_to_pixels(photo, side).numpy()) for photo in photographs]
    return np.stack(found) if found else np.empty((0, PER_IMAGE))
