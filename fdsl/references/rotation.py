"""Rotated copies of the references in the memory bank: their number, and which of their patches it holds."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.region_of_interest import own_roi
from data.variants import rotated, rotated_inside, rotated_places
from fdsl.scoring import Scorer
from models.detector import Detector
from models.features import OfBranches
from models.matching.candidates import Masked
from models.matching.memory_bank import nearest_of
from models.views.counted_patches import counting
from utils.config import AUTO
from utils.console import progress
from utils.memory import sparing
from utils.tile_layout import TileLayout

logger = logging.getLogger("fdsl")
ROTATIONS = 8  # copies of each reference with AUTO, itself included
LEAST_GAIN = 0.03  # the least share of the references' mutual distance that the copies must remove


def fit_references(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int | str) -> int:
    """Fits the detector to the references, each in `rotations` rotated copies; returns their number.

    AUTO takes ROTATIONS copies. With two or more references it takes none if the copies bring the references
    less than LEAST_GAIN closer to each other: then all parts lie in the same direction, and copies would only
    hide defects. Raises NotFinite, and ConfigError where memory does not hold one image.
    """
    scorer.detector.lay_tiles([photo.size for photo in photographs])
    if rotations == AUTO:
        rotations = ROTATIONS
        if len(photographs) > 1:
            gain = sparing(lambda: rotation_gain(scorer, photographs, ROTATIONS), scorer.detector.spare)
            if gain < LEAST_GAIN:
                logger.info("references are not rotated: rotated copies bring them no closer to each other")
                rotations = 1
    copies = (copy for photo in photographs for copy in rotated(photo, int(rotations)))
    inside = None
    if int(rotations) > 1 or scorer.detector.counted.roi is not None or has_own_roi(photographs):
        inside = in_bank(scorer.detector, photographs, int(rotations))
    scorer.fit(scorer.to_batch(copies), inside)
    return int(rotations)


def inside_of(detector: Detector, photographs: Sequence[Image.Image], rotations: int) -> OfBranches:
    """The patches of the rotated copies that show the photographs, inside the region of interest."""
    side = detector.grid

    def mask(photo: Image.Image, layout: TileLayout | None) -> np.ndarray:
        own, size = own_roi(photo), photo.size
        counts = detector.counted.of_grid(side, side).cpu()
        if own is not None:
            counts = counting(torch.from_numpy(own)[None], side, side)[0]
        inside = rotated_inside(size, rotations, side, layout)
        rows, columns = np.moveaxis(rotated_places(size, rotations, side, layout).round().astype(int), -1, 0)
        return inside & counts.numpy()[rows.clip(0, side - 1), columns.clip(0, side - 1)]

    def masks(layout: TileLayout | None) -> Tensor:
        return torch.stack([torch.from_numpy(mask(photo, layout)) for photo in photographs])

    return OfBranches(masks(None), None if detector.layout is None else masks(detector.layout))


def in_bank(detector: Detector, photographs: Sequence[Image.Image], rotations: int) -> OfBranches:
    """The patches that the memory bank holds: of each reference all, of its rotated copies those that show
    the photograph and lie on the dark squares of a chessboard. Neighbouring patches are similar, so half of
    them give nearly the same distances in half the time (docs/measurements.md)."""
    row, column = np.divmod(np.arange(detector.grid**2), detector.grid)
    dark = torch.from_numpy((row + column) % 2 == 0)

    def thinned(inside: Tensor) -> Tensor:
        half = inside & dark.repeat(inside.shape[-1] // len(dark))
        half[:, 0] = inside[:, 0]
        return half

    whole, tiles, _ = inside_of(detector, photographs, rotations)
    windows = None
    if detector.windows is not None and (detector.counted.roi is not None or has_own_roi(photographs)):
        windows = whole[..., detector.windows.grid.seen.flatten()]
    return OfBranches(thinned(whole), None if tiles is None else thinned(tiles), windows)


def has_own_roi(photographs: Sequence[Image.Image]) -> bool:
    return any(own_roi(photo) is not None for photo in photographs)


def neighbourhood_masked(detector: Detector, photograph: Image.Image, rotations: int) -> Masked:
    """A matching for a single reference in which no patch matches near its own place."""

    def of(layout: TileLayout | None, inside: Tensor | None, tiles: Masked | None = None) -> Masked:
        places = rotated_places(photograph.size, rotations, detector.grid, layout)
        return Masked(torch.from_numpy(places).float(), tiles, inside)

    whole, tiles, _ = in_bank(detector, [photograph], rotations)
    return of(None, whole[0], None if tiles is None else of(detector.layout, tiles[0]))


@torch.no_grad()
def rotation_gain(scorer: Scorer, photographs: Sequence[Image.Image], rotations: int) -> float:
    """The share by which rotated copies bring two or more references closer to each other: 1 - (mean distance
    of a reference's tokens to the others' with copies) / (the same without).

    It is near 0 where all parts lie in the same direction; about 0.1 and more where they lie in any
    direction, or look the same from several.
    """
    detector = scorer.detector
    tokens: list[list[Tensor]] = []  # of each photograph, of each of its copies: (L,n,C)
    for photo in progress(photographs, len(photographs), "references, rotated"):
        (masks,) = inside_of(detector, [photo], rotations).whole
        copies = scorer.to_batch(rotated(photo, rotations))
        encoded = [detector.encode(copy).tokens[:, 0] for copy in copies.split(1)]
        tokens.append([one[:, mask.to(one.device)] for one, mask in zip(encoded, masks)])
    plain, closer = 0.0, 0.0
    for number, own in enumerate(tokens):
        others = [copies for place, copies in enumerate(tokens) if place != number]
        banks = (torch.cat(same_angle, 1) for same_angle in zip(*others))
        similarities = [_similarity(own[0], bank) for bank in banks]
        plain += float((1 - similarities[0]).mean())
        closer += float((1 - torch.stack(similarities).amax(0)).mean())
    return 1 - closer / plain if plain > 0 else 0.0


def _similarity(query: Tensor, bank: Tensor) -> Tensor:
    """Tokens (L,n,C) and (L,M,C) -> the cosine similarity (L,n) float32 of each to its most similar one."""
    return torch.stack([nearest_of(one, other)[0].float() for one, other in zip(query, bank)])
