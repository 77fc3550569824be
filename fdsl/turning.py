"""Turned copies of the references: how many are remembered, and whether turning does harm."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from data.variants import rotated, rotated_places
from fdsl.scoring import Scorer, to_batch
from models.matching import Elsewhere, Matching

logger = logging.getLogger("fdsl")
TURNS = (8, 4, 2)  # what AUTO tries, most first
HARMLESS = 1.25  # times as unlike the references as another good photograph is, a turned one may be


def show(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int | str) -> int:
    """Shows the detector its references, each in `rotations` turned copies; returns how many those are.

    AUTO takes the most of TURNS whose every turn is safe, 1 where none is: a turn is safe where a reference
    that is turned by it matches the references as well as another good photograph does. Raises NotFinite,
    and ConfigError where memory does not hold one.
    """
    side = scorer.detector.image_size
    if not isinstance(rotations, int):
        scorer.remember(to_batch(photographs, side))
        rotations = safe_turns(scorer, photographs)
        if rotations == 1:
            logger.info("references are remembered as they are: turned ones are unlike good parts")
            return 1
        logger.info("references are remembered in %d turned copies each: turning does no harm", rotations)
    turned = (copy for photo in photographs for copy in rotated(photo, rotations))
    scorer.remember(to_batch(turned, side))
    return rotations


def safe_turns(scorer: Scorer, photographs: Sequence[Image.Image]) -> int:
    """The most of TURNS whose every turn is safe, or 1; the detector remembers the photographs as they
    are."""
    if not photographs or scorer.detector.memory is None:
        return 1
    usual = float(np.mean([_unlike(scorer, photographs, index) for index in range(len(photographs))]))
    return next((count for count in TURNS if _all_safe(scorer, photographs, count, usual)), 1)


def _all_safe(scorer: Scorer, photographs: Sequence[Image.Image], count: int, usual: float) -> bool:
    """Whether every one of `count` turns leaves references that are about as like the others as `usual`."""
    for index, photo in enumerate(photographs):
        known = scorer if len(photographs) == 1 else scorer.without(index, len(photographs))
        turned = to_batch(list(rotated(photo, count))[1:], scorer.detector.image_size)
        if (_height(known, turned) > HARMLESS * usual).any():
            return False
    return True


def _unlike(scorer: Scorer, photographs: Sequence[Image.Image], index: int) -> float:
    """How unlike the other references one is; of a single one, how unlike its patches are to those
    elsewhere on it."""
    pixels = to_batch([photographs[index]], scorer.detector.image_size)
    if len(photographs) > 1:
        return float(_height(scorer.without(index, len(photographs)), pixels)[0])
    places = rotated_places(photographs[0].size, 1, scorer.detector.grid)
    return float(_height(scorer, pixels, Elsewhere(torch.from_numpy(places).float()))[0])


def _height(scorer: Scorer, pixels: torch.Tensor, match: Matching | None = None) -> np.ndarray:
    """The mean (B,) over the maps of photographs (B,3,S,S)."""
    found = scorer(pixels, ["a reference"] * len(pixels), match)
    return found.base.mean((1, 2))
