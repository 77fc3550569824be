"""Mutual scoring of the test images added to a method with references, on one scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from models.encoder import Encoder
from models.features import Features, OfBranches, ScoreMaps, Sizes
from models.matching.candidates import UNRESTRICTED, Matching
from models.method import Memories, Memory, Method, Seen, scaled
from models.methods.batch import NO_TEST_IMAGES, BatchMemory, memories_of, stored_or_encoded, summary_of
from models.views.tile_maps import resized
from utils.errors import ModelError
from utils.views import Views


@dataclass(frozen=True)
class ComparedImages:
    """The test images of mutual scoring, and its scales: medians of their map peaks and of their scores."""

    memory: BatchMemory
    map_scale: float
    score_scale: float


class WithMutualScoring(Method[Memory]):
    """The method's own maps and scores, combined with those of mutual scoring.

    A value v of either becomes v / (v + scale), 0.5 for a usual normal image, and the two are averaged. The
    scales are means of held-out references for the method's own maps and scores (`own_scales`), and medians
    of the test images, most of which must be normal, for mutual scoring (`test_images`).
    """

    takes_test_images = True

    def __init__(self, own: Method) -> None:
        super().__init__(own.width, own.blocks, own.options)
        self.own, self.name, self.rotations = own, own.name, own.rotations
        self.want, self.scales, self.hottest = own.want, own.scales, own.hottest
        self.reads_text, self.of_distances = own.reads_text, own.of_distances
        self.test_images: ComparedImages | None = None
        self.own_scales: tuple[float, float] | None = None  # of maps and of scores

    def alone(self) -> Method:
        return self.own

    def unfitted(self) -> Self:
        other = super().unfitted()
        other.test_images = None
        return other

    def forget(self) -> None:
        self.own.forget()
        self.own_scales = None

    def set_own_scales(self, peak: float, score: float) -> None:
        """Sets the scales of the method's own maps and scores; ModelError for zero."""
        if not (peak > 0 and score > 0):
            raise ModelError("The references give no scale for --with-batch: all their maps are zero.")
        self.own_scales = (peak, score)

    def take_test_images(self, seen: Iterable[Seen], count: int, device: torch.device) -> Memories:
        """Takes `count` images without their tiles, and sets the scales of mutual scoring; the method's own
        memories are not of them."""
        memory, _ = memories_of((one._replace(tiles=()) for one in seen), count)
        scored = [
            self._scored(Features(photograph[:, None].to(device), stored_as=(number,)), memory)
            for number, photograph in enumerate(memory.tokens_for(device))
        ]
        peaks = torch.stack([of_image.max() for of_image, _ in scored]).cpu()
        scores = torch.cat([score for _, score in scored]).cpu()
        self.test_images = ComparedImages(memory, _scale(peaks.quantile(0.5)), _scale(scores.quantile(0.5)))
        return Memories()

    def features(self, encode: Encoder, views: Views, memory: Memory | None) -> Features:
        compared = None if self.test_images is None else self.test_images.memory
        return stored_or_encoded(encode, views, compared, self.want)

    def combine(self, maps: OfBranches, side: int, features: Features) -> ScoreMaps:
        """The means of the method's own maps and scores and of mutual scoring's; only the method's before its
        scales are set."""
        own = self.own.combine(maps, side, features)
        if self.own_scales is None:
            return own
        if self.test_images is None:
            raise ModelError(NO_TEST_IMAGES)
        mutual, mutual_score = self._scored(features, self.test_images.memory)
        mutual = scaled(resized(mutual, own.base.shape[-1]), self.test_images.map_scale)
        mutual_score = scaled(mutual_score, self.test_images.score_scale)
        map_scale, score_scale = self.own_scales

        def of_both(maps: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
            return (scaled(maps, map_scale) + mutual) / 2, (scaled(scores, score_scale) + mutual_score) / 2

        base = of_both(own.base, own.base_score)
        if own.window is None or own.window_score is None:
            return ScoreMaps(*base)
        return ScoreMaps(*base, *of_both(own.window, own.window_score))

    # The rest is the method's own.
    @property
    def needs_references(self) -> bool:
        return self.own.needs_references

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> Memory:
        return self.own.fit(parts, sizes, match)

    def fit_tiles(self, parts: Iterable[Features], sizes: Sizes) -> Memory:
        return self.own.fit_tiles(parts, sizes)

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> Memory:
        return self.own.restored(state, dtype)

    def raw_maps(self, query: Features, memory: Memory | None, match: Matching = UNRESTRICTED) -> Tensor:
        return self.own.raw_maps(query, memory, match)

    def raw_tile_maps(self, query: Features, memory: Memory | None, match: Matching = UNRESTRICTED) -> Tensor:
        return self.own.raw_tile_maps(query, memory, match)

    def refine(self, raw: Tensor) -> Tensor:
        return self.own.refine(raw)

    def final(self, maps: Tensor) -> Tensor:
        return self.own.final(maps)

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return self.own.summarise(maps)

    def set_category(self, category: str) -> None:
        self.own.set_category(category)

    def set_scales(self, values: Sequence[float]) -> None:
        self.own.set_scales(values)

    @staticmethod
    def _scored(features: Features, memory: BatchMemory) -> tuple[Tensor, Tensor]:
        """A map (B,G,G) and a score (B,) of mutual scoring."""
        grid = math.isqrt(features.tokens.shape[2])
        return summary_of(memory.maps_of(features).unflatten(-1, (grid, grid)))


def _scale(value: Tensor) -> float:
    """The scale as a number; ModelError for zero."""
    if not value > 0:
        raise ModelError("The test images are all alike: they cannot be compared with each other.")
    return float(value)
