"""The test images as a whole: which of them stand for all, and how a detector takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
from PIL import Image

from data.photographs import in_batches
from fdsl.scoring import Scorer
from models.methods.batch import FEWEST
from utils.errors import DataError
from utils.log import progress
from utils.room import Room, in_memory

Item = TypeVar("Item")
MOST = 200  # photographs that stand for all: what each one costs does not grow with their number
BATCH = 4


def standing_for_all(items: Sequence[Item]) -> list[Item]:
    """The items as they are, or MOST of them in their order, drawn with a seed that is always the same."""
    if len(items) <= MOST:
        return list(items)
    chosen = np.random.default_rng(0).choice(len(items), MOST, replace=False)
    return [items[number] for number in sorted(chosen)]


def encode_test_images(
    scorer: Scorer,
    photographs: Iterable[Image.Image],
    count: int,
    room: Room = in_memory,
    what: str = "test images encoded beforehand",
) -> None:
    """Shows the detector `count` photographs, whose tokens are kept in `room`; DataError where they are too
    few to be compared."""
    if count < FEWEST:
        raise DataError(
            f"{count} photograph(s) to inspect: they are compared with each other, so give {FEWEST} or more"
        )
    photographs = iter(photographs)
    if scorer.detector.method.transductive:  # no references say how tiles lie: the first photograph does
        first = next(photographs)
        scorer.detector.lay_tiles([first.size])
        photographs = chain([first], photographs)
    seen = in_batches(progress(photographs, count, what), BATCH)
    scorer.detector.take_test_images((scorer.to_batch(part) for part in seen), count, room)
