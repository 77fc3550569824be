"""The pixels behind the pixel metrics: collected image by image, held exactly, or by rank where the stream is
too long.

Only the order of the scores matters, so a long stream is cut into blocks and each block is kept as scores at
chosen ranks, each standing for the pixels around it. Ranks are counted from the highest score: the first
65,536 are kept one by one, from there on a kept score stands for 1/65,536 of the pixels above it, so
precision and recall keep their relative accuracy also where defects are rare. A kept score misplaces at most
half of what it stands for, and blocks are joined FAN_IN at a time: a billion pixels pass two such steps,
errors of some 1e-5, and the same under any monotone rescaling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from data.masks import SaturatingRegion

MEMORY_PIXELS = 1 << 26  # exact up to here: 250 images of 518 px
ANOMALOUS_COST = 4  # an anomalous pixel also holds its region's area, and an index while it is sorted
RANKS_KEPT = 1 << 16
FAN_IN = 8


class Population(NamedTuple):
    """Scores in ascending order and the mass each stands for; None where every score is one pixel."""

    scores: np.ndarray
    mass: np.ndarray | None


def region_areas(mask: np.ndarray) -> np.ndarray:
    """For each anomalous pixel of a mask (H,W) bool, row by row: the area of its 8-connected region."""
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1][mask]
    return np.bincount(labels).astype(np.int32)[labels]


def saturating_areas(scores: np.ndarray, share: float) -> np.ndarray:
    """For each of a region's n scores the area that its pixel stands for, as `region_areas`, where the
    highest s = share * n pixels are the whole region: s for these, infinity for the others, between them what
    is left of s."""
    saturation = share * scores.size
    rank = np.empty(scores.size)
    rank[np.argsort(-scores)] = np.arange(scores.size)
    with np.errstate(divide="ignore"):
        return saturation / np.clip(saturation - rank, 0, 1)


class PixelScores:
    """Scores of normal and anomalous pixels, the latter with their region's area; exact up to
    `memory_pixels`."""

    def __init__(self, memory_pixels: int = MEMORY_PIXELS) -> None:
        self.memory_pixels = memory_pixels
        self.normal_count = self.anomalous_count = 0
        self._normal: list[np.ndarray] = []
        self._anomalous: list[np.ndarray] = []
        self._areas: list[np.ndarray] = []
        self._held = 0
        self._summaries: tuple[_Summary, _Summary, _Summary] | None = None

    def add(self, scores: np.ndarray, mask: np.ndarray) -> None:
        """Take one image: finite scores (H, W) and a bool mask (H, W). The arrays are copied, not kept."""
        if mask.any():
            self._add(scores[~mask], [scores[mask]], [region_areas(mask)])
        else:
            self._add(scores.flatten())

    def add_regions(self, scores: np.ndarray, regions: Sequence[SaturatingRegion]) -> None:
        """Take one image: finite scores (H, W) and its regions, none of a normal one; what lies in several is
        there once for each."""
        found = [region for region in regions if region.mask.any()]
        normal = ~np.any([region.mask for region in found], axis=0) if found else np.ones(scores.shape, bool)
        inside = [scores[region.mask] for region in found]
        areas = [saturating_areas(one, region.share) for one, region in zip(inside, found)]
        self._add(scores[normal], inside, areas)

    def _add(
        self, normal: np.ndarray, anomalous: Sequence[np.ndarray] = (), areas: Sequence[np.ndarray] = ()
    ) -> None:
        """Take an image's normal and anomalous scores, and what `region_areas` says of the latter."""
        self._normal.append(normal)
        self._anomalous += anomalous
        self._areas += areas
        count = sum(map(len, anomalous))
        self.anomalous_count += count
        self.normal_count += normal.size
        self._held += (normal.size + ANOMALOUS_COST * count) * normal.itemsize // 4
        if self._held > self.memory_pixels:
            self._summarise()

    def populations(self) -> tuple[Population, Population, Population]:
        """Normal pixels, anomalous pixels, and the anomalous ones with mass 1 / area of their region.

        In the exact mode the last two share one array of scores. Needs at least one pixel of either kind.
        """
        if self._summaries is None:
            normal, anomalous, weights = self._sort()
            return Population(normal, None), Population(anomalous, None), Population(anomalous, weights)
        self._summarise()
        normal_part, anomalous_part, region_part = self._summaries
        return normal_part.population(), anomalous_part.population(), region_part.population()

    def _sort(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        normal, anomalous, areas = _join(self._normal), _join(self._anomalous), _join(self._areas)
        normal.sort()
        order = np.argsort(anomalous)
        anomalous, areas = anomalous[order], areas[order]
        self._normal, self._anomalous, self._areas = [normal], [anomalous], [areas]
        return normal, anomalous, 1.0 / areas

    def _summarise(self) -> None:
        if self._held == 0:
            return
        if self._summaries is None:
            self._summaries = (_Summary(_rank_cuts), _Summary(_rank_cuts), _Summary(_even_cuts))
        normal, anomalous, weights = self._sort()
        for summary, scores, mass in zip(
            self._summaries, (normal, anomalous, anomalous), (None, None, weights)
        ):
            summary.add(Population(scores, mass))
        self._normal, self._anomalous, self._areas, self._held = [], [], [], 0


class _Summary:
    """A stream of populations, each thinned to the cuts; FAN_IN of one tier are joined into one of the
    next."""

    def __init__(self, cuts: Callable[[float], np.ndarray]) -> None:
        self._cuts = cuts
        self._tiers: list[list[Population]] = []

    def add(self, population: Population, tier: int = 0) -> None:
        if population.scores.size == 0:
            return
        if tier == len(self._tiers):
            self._tiers.append([])
        self._tiers[tier].append(_thin(population, self._cuts))
        if len(self._tiers[tier]) == FAN_IN:
            joined = _merge(self._tiers[tier])
            self._tiers[tier] = []
            self.add(joined, tier + 1)

    def population(self) -> Population:
        return _merge([population for tier in self._tiers for population in tier])


def _thin(population: Population, cuts: Callable[[float], np.ndarray]) -> Population:
    """One score for the pixels between two cuts: the score in their middle; unchanged where that would keep
    as many."""
    scores, mass = population
    below = None if mass is None else np.cumsum(mass)
    edges = cuts(scores.size if below is None else below[-1])
    if scores.size < edges.size:
        return Population(scores, np.ones(scores.size, np.int64) if mass is None else mass)
    middles = (edges[1:] + edges[:-1]) / 2
    kept = middles.astype(np.int64) if below is None else np.searchsorted(below, middles)
    return Population(scores[kept], np.diff(edges))


def _rank_cuts(total: float) -> np.ndarray:
    """Ranks (from the lowest, 0 to total) between which pixels are taken together, finer the nearer to the
    top."""
    growth = np.arange(0.0, max(np.log(total / RANKS_KEPT), 0.0), 1 / RANKS_KEPT)
    from_top = np.concatenate([np.arange(RANKS_KEPT), np.rint(RANKS_KEPT * np.exp(growth)), [total]])
    return total - np.unique(np.minimum(from_top, total)).astype(np.int64)[::-1]


def _even_cuts(total: float) -> np.ndarray:
    return np.linspace(0.0, total, RANKS_KEPT + 1)


def _merge(populations: list[Population]) -> Population:
    if not populations:
        return Population(np.empty(0, np.float32), np.empty(0, np.int64))
    scores = np.concatenate([population.scores for population in populations])
    mass = np.concatenate([population.mass for population in populations])
    order = np.argsort(scores)
    return Population(scores[order], mass[order])


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate, emptying the list on the way, so that the scores are not held twice."""
    if len(parts) == 1:
        return parts.pop()
    end = sum(part.size for part in parts)
    whole = np.empty(end, np.result_type(*{part.dtype for part in parts}) if parts else np.float32)
    while parts:
        part = parts.pop()
        whole[end - part.size : end] = part
        end -= part.size
    return whole
