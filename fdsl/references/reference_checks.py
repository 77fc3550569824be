"""Which of the given references count: near copies once, and none that shows no part."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data.tensors import image_to_pixels
from utils.image_statistics import implausible_references, reason_of, statistics_of

logger = logging.getLogger("fdsl")
SIDE = 32  # pixels: of the thumbnails that tell near copies
NEAR_COPY = 1.6  # grey levels, root mean square: sensor noise and JPEG change a thumbnail by less


def usable_references(photographs: Sequence[Image.Image], names: Sequence[str], side: int) -> list[int]:
    """Which of the RGB photographs count, by their places; says what is left out and why.

    A photograph that nearly repeats an earlier one (a copy, frames of a part at rest) would be scored by that
    one as if normal images were all alike. One that shows no part, by its `statistics_of` at `side` pixels
    next to the others', would make such frames normal.
    """
    thumbnails = [
        np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) for photo in photographs
    ]
    kept: list[int] = []
    for number, own in enumerate(thumbnails):
        same = (
            one
            for one in kept
            if photographs[one].size == photographs[number].size
            and float(np.sqrt(np.square(thumbnails[one] - own).mean())) < NEAR_COPY
        )
        first = next(same, None)
        if first is None:
            kept.append(number)
        else:
            logger.warning(
                "warning: %s shows the same as %s: they count as one reference", names[number], names[first]
            )
    found = statistics_of_references([photographs[number] for number in kept], side)
    odd = implausible_references(found)
    for place in odd:
        reason = reason_of(found[place], np.delete(found, odd, axis=0))
        logger.warning("warning: %s is left out of the references: %s", names[kept[place]], reason)
    return [number for place, number in enumerate(kept) if place not in odd]


def statistics_of_references(photographs: Sequence[Image.Image], side: int) -> np.ndarray:
    """(K,4): the `statistics_of` each photograph, resized to side x side pixels."""
    found = [statistics_of(image_to_pixels(photo, side).numpy()) for photo in photographs]
    return np.stack(found) if found else np.empty((0, 4))
