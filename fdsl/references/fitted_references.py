"""The references that a detector was fitted to: which of those given count, and what stays of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image

from data.photographs import Photograph, PhotographReader, image_to_pixels, name_of, pixel_digest
from fdsl.references.reference_store import StoredReference, digest_of, to_store
from utils.errors import DataError
from utils.image_statistics import PER_IMAGE, implausible_references, reason_of, reasons_among, statistics_of

logger = logging.getLogger("fdsl")
SIDE = 64  # pixels, of the thumbnails that are compared
# Grey levels, root mean square: the largest difference of near copies' thumbnails, and the largest remainder
# of it that neither other light nor a small shift explains.
NEAR_COPY, NEAR_COPY_REMAINDER = 10.0, 1.0


@dataclass(frozen=True, eq=False)
class FittedReferences:
    """What a detector keeps of its K references besides its memory bank.

    sizes: (width, height) of each in pixels. statistics (K,11): of each, as utils/image_statistics.py gives
    them. stored: their files, so that others can be added to them; [] where they are too large.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    statistics: np.ndarray = field(default_factory=lambda: np.empty((0, PER_IMAGE)))
    stored: list[StoredReference] = field(default_factory=list)

    def reason(self, statistics: np.ndarray) -> str:
        """Why a photograph of these statistics (11,) cannot be judged; "" where it can, or there are no
        references."""
        return reason_of(statistics, self.statistics) if len(self.statistics) else ""

    def calibration_images(
        self, images: Iterable[Photograph], reader: PhotographReader, side: int
    ) -> list[Image.Image]:
        """The RGB photographs among the images that a threshold can be calibrated on, each once: not the
        references, nor what cannot be judged at `side` pixels, of which it warns. DataError where none is
        left."""
        own, seen, usable = {one.digest for one in self.stored}, set[str](), list[Image.Image]()
        for number, image in enumerate(images, start=1):
            image = reader.plain(image, "a calibration image")
            digest, name = digest_of(image, number), name_of(image, number)
            if digest in own:
                logger.warning("warning: %s is a reference, and is left out of the calibration", name)
            elif digest not in seen:
                photo = reader.read(image, "a calibration image")
                if reason := self.reason(_statistics(photo, side)):
                    logger.warning("warning: %s is left out of the calibration: %s", name, reason)
                else:
                    usable.append(photo)
            seen.add(digest)
        if not usable:
            raise DataError("no calibration image shows what the references show; give some")
        return usable


def take_references(
    given: Sequence[Photograph], reader: PhotographReader, side: int, before: Sequence[StoredReference]
) -> tuple[FittedReferences, list[Image.Image], list[str]]:
    """Those of the given references that count at `side` pixels (`usable_references`): what stays of them,
    with the files in the order given; the RGB photographs in the order of the memory bank, and their names.
    `before`: stored references, whose days stay."""
    names = [name_of(image, number) for number, image in enumerate(given, start=1)]
    every = [reader.read(image, f"references[{place}]") for place, image in enumerate(given)]
    usable = usable_references(every, names, side)
    photographs = [every[place] for place in usable]
    references = FittedReferences(
        [photo.size for photo in photographs],
        np.reshape(list(usable.values()), (-1, PER_IMAGE)),
        to_store({place + 1: given[place] for place in sorted(usable)}, before),
    )
    return references, photographs, [names[place] for place in usable]


def usable_references(
    photographs: Sequence[Image.Image], names: Sequence[str], side: int
) -> dict[int, np.ndarray]:
    """The indices of the RGB photographs that are used, in the order of their digests, with the statistics
    (11,) of each; warns of the others.

    So the same photographs give the same detector, in whatever order they are given. Of near copies (copies,
    a burst, frames of a part at rest) one is used, for they would score as if normal images did not vary. One
    that shows no part, by its statistics at `side` pixels compared with the others', would make such frames
    normal; where that may be either, both are used.
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
    statistics = np.reshape([_statistics(photographs[number], side) for number in numbers], (-1, PER_IMAGE))
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
    return {number: statistics[place] for place, number in enumerate(numbers) if place not in implausible}


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


def _statistics(photo: Image.Image, side: int) -> np.ndarray:
    """(11,): those of a photograph that is resized to side x side pixels."""
    return statistics_of(image_to_pixels(photo, side).numpy())
