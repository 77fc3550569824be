"""Turned copies of the references: how many are remembered, and whether turning does harm."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from data.variants import rotated
from fdsl.calibration import elsewhere
from fdsl.scoring import Scorer
from models.matching import Matching

logger = logging.getLogger("fdsl")
TURNS = (8, 4, 2)  # what AUTO tries, most first
HARMLESS = 1.25  # times as unlike the references as another good photograph is, a turned one may be


def show(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int | str) -> int:
    """Shows the detector its references, each in `rotations` turned copies; returns how many those are.

    AUTO takes the most of TURNS whose every turn is safe, 1 where none is: a turn is safe where a reference
    that is turned by it matches the references as well as another good photograph does. Raises NotFinite,
    and ConfigError where memory does not hold one.
    """
    scorer.detector.lay_tiles([photo.size for photo in photographs])
    if not isinstance(rotations, int):
        scorer.remember(scorer.to_batch(photographs))
        rotations = safe_turns(scorer, photographs)
        if rotations == 1:
            logger.info("references are remembered as they are: turned ones are unlike good parts")
            return 1
        logger.info("references are remembered in %d turned copies each: turning does no harm", rotations)
    turned = (copy for photo in photographs for copy in rotated(photo, rotations))
    scorer.remember(scorer.to_batch(turned))
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
        turned = scorer.to_batch(list(rotated(photo, count))[1:])
        if (_height(known, turned) > HARMLESS * usual).any():
            return False
    return True


def _unlike(scorer: Scorer, photographs: Sequence[Image.Image], index: int) -> float:
    """How unlike the other references one is; of a single one, how unlike its patches are to those
    elsewhere on it."""
    pixels = scorer.to_batch([photographs[index]])
    if len(photographs) > 1:
        return float(_height(scorer.without(index, len(photographs)), pixels)[0])
    return float(_height(scorer, pixels, elsewhere(scorer.detector, photographs[0], 1))[0])


def _height(scorer: Scorer, pixels: torch.Tensor, match: Matching | None = None) -> np.ndarray:
    """The mean (B,) over the maps of photographs (B,3,S,S)."""
    found = scorer(pixels, ["a reference"] * len(pixels), match)
    return found.base.mean((1, 2))
