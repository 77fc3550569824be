"""The references that a detector was fitted to: which of those given count, and what stays of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from data.photographs import Photograph, PhotographReader, name_of
from fdsl.references.reference_checks import statistics_of_references, usable_references
from fdsl.references.reference_store import StoredReference, digest_of, to_store
from utils.errors import DataError
from utils.image_statistics import PER_IMAGE, reason_of

logger = logging.getLogger("fdsl")


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
                (statistics,) = statistics_of_references([photo], side)
                if reason := self.reason(statistics):
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
    """Those of the given references that count at `side` pixels (fdsl/references/reference_checks.py): what
    stays of them, with the files in the order given; the RGB photographs in the order of the memory bank, and
    their names. `before`: stored references, whose days stay."""
    names = [name_of(image, number) for number, image in enumerate(given, start=1)]
    every = [reader.read(image, f"references[{place}]") for place, image in enumerate(given)]
    usable = usable_references(every, names, side)
    photographs = [every[place] for place in usable]
    references = FittedReferences(
        [photo.size for photo in photographs],
        statistics_of_references(photographs, side),
        to_store({place + 1: given[place] for place in sorted(usable)}, before),
    )
    return references, photographs, [names[place] for place in usable]
