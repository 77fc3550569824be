"""Transductive methods: the sample of the test images that is compared with each, and its encoding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
from PIL import Image

from data.photographs import in_batches
from fdsl.scoring import Scorer
from models.methods.batch import FEWEST
from utils.console import progress
from utils.errors import DataError

Item = TypeVar("Item")
MOST = 200  # test images of the sample, so that the cost of each image does not grow with their number
BATCH = 4


def sample_of(items: Sequence[Item]) -> list[Item]:
    """All items, or a sample of MOST of them in their order, always with the same seed."""
    if len(items) <= MOST:
        return list(items)
    chosen = np.random.default_rng(0).choice(len(items), MOST, replace=False)
    return [items[number] for number in sorted(chosen)]


def encode_test_images(
    scorer: Scorer,
    photographs: Iterable[Image.Image],
    count: int,
    what: str = "test images encoded beforehand",
) -> None:
    """Fits the detector to `count` test images; DataError for fewer than FEWEST."""
    if count < FEWEST:
        raise DataError(
            f"{count} photograph(s) to inspect: they are compared with each other, so give {FEWEST} or more"
        )
    photographs = iter(photographs)
    if scorer.detector.method.transductive:  # without references the first photograph decides the tiles
        first = next(photographs)
        scorer.detector.lay_tiles([first.size])
        photographs = chain([first], photographs)
    batches = in_batches(progress(photographs, count, what), BATCH)
    scorer.detector.take_test_images(map(scorer.to_batch, batches), count)
