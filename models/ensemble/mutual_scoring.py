"""Mutual scoring of the test images around a method with references, on one scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.encoding_cache import Encoder
from models.features import Features, FinalMaps, ScoreMaps, Sizes
from models.matching.candidates import UNRESTRICTED, Matching
from models.method import Memories, Memory, Method, Seen
from models.methods.batch import NOT_SHOWN, Batch, BatchMemory, memories_of, with_kept
from models.views.tile_maps import resized
from utils.errors import ModelError
from utils.room import Room


@dataclass(frozen=True)
class ComparedImages:
    """The test images that mutual scoring compares, and its scales: how high maps and scores of most of them
    come."""

    memory: BatchMemory
    map_scale: float
    score_scale: float


class WithMutualScoring(Method[Memory]):
    """A method whose maps and scores are combined with those of mutual scoring; all else is its own.

    A value v of either becomes v / (v + scale), 0.5 where normal images come, and the mean of the two counts.
    A scale is how high images come: for the method's own map and score the held-out references
    (`own_scales`), for mutual scoring the median of the test images (`test_images`), of which most are to be
    normal.
    """

    def __init__(self, own: Method) -> None:
        super().__init__(own.width, own.blocks, own.options)
        self.own, self.batch = own, Batch(own.width, own.blocks)
        self.name, self.rotations, self.hottest = own.name, own.rotations, own.hottest
        self.scales, self.want, self.reads_text = own.scales, own.want, own.reads_text
        self.test_images: ComparedImages | None = None
        self.own_scales: tuple[float, float] | None = None  # of maps and of scores

    @property
    def takes_test_images(self) -> bool:
        return True

    def copied(self) -> WithMutualScoring:
        other = self.unfitted()
        other.test_images, other.own_scales = self.test_images, self.own_scales
        return other

    def unfitted(self) -> WithMutualScoring:
        return WithMutualScoring(self.own.copied())

    def set_own_scales(self, peak: float, score: float) -> None:
        """How high the method's own maps and scores come for normal images; ModelError for zero."""
        if not (peak > 0 and score > 0):
            raise ModelError("The references give no level for --with-batch: all their maps are zero.")
        self.own_scales = (peak, score)

    def take_test_images(
        self, seen: Iterable[Seen], count: int, room: Room, known: Memories, like: Tensor
    ) -> Memories:
        """Each image is scored by the others, once, without its tiles."""
        memory, _ = memories_of((one._replace(tiles=()) for one in seen), count, room)
        found = [
            self._scored(Features(photograph[:, None].to(like), shown=(number,)), memory)
            for number, photograph in enumerate(memory.tokens_for(like))
        ]
        peaks = torch.stack([shown.max() for shown, _ in found]).cpu()
        scores = torch.cat([score for _, score in found]).cpu()
        self.test_images = ComparedImages(memory, _scale(peaks.quantile(0.5)), _scale(scores.quantile(0.5)))
        return known

    def features(
        self, encode: Encoder, images: Tensor, originals: Tensor, memory: Memory | None, like: Tensor
    ) -> Features:
        """Kept tokens serve where the method wants no more than tokens and they are as precise as others."""
        if self.test_images is None:
            return encode(images, self.want)
        kept = self.test_images.memory
        shown = kept.of(originals)
        if self.want or kept.tokens.dtype != like.dtype or all(number is None for number in shown):
            return encode(images, self.want)._replace(shown=shown)
        return with_kept(encode, images, kept, shown, like)

    def combine(self, maps: FinalMaps, features: Features, side: int) -> ScoreMaps:
        """Half the method's own maps and scores, and half mutual scoring's; the method's alone before its
        scales are known."""
        found = self.own.combine(maps, features, side)
        if self.own_scales is None:
            return found
        if self.test_images is None:
            raise ModelError(NOT_SHOWN)
        shown, score = self._scored(features, self.test_images.memory)
        shown = scaled(resized(shown, found.base.shape[-1]), self.test_images.map_scale)
        score = scaled(score, self.test_images.score_scale)
        own_map, own_score = self.own_scales
        base = (scaled(found.base, own_map) + shown) / 2
        base_score = (scaled(found.base_score, own_score) + score) / 2
        if found.window is None or found.window_score is None:
            return ScoreMaps(base, base_score)
        window = (scaled(found.window, own_map) + shown) / 2
        return ScoreMaps(base, base_score, window, (scaled(found.window_score, own_score) + score) / 2)

    def _scored(self, features: Features, memory: BatchMemory) -> tuple[Tensor, Tensor]:
        """A map (B,G,G) and a score (B,) of mutual scoring."""
        grid = math.isqrt(features.tokens.shape[2])
        return self.batch.summarise(self.batch.raw_maps(features, memory).unflatten(-1, (grid, grid)))

    # As the method itself

    @property
    def directions(self) -> Tensor:  # type: ignore[override]
        return self.own.directions

    @directions.setter
    def directions(self, found: Tensor) -> None:
        self.own.directions = found

    @property
    def needs_references(self) -> bool:
        return self.own.needs_references

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> Memory:
        return self.own.fit(parts, sizes, match)

    def fit_tiles(self, parts: Iterable[Features], sizes: Sizes) -> Memory:
        return self.own.fit_tiles(parts, sizes)

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> Memory:
        return self.own.restored(state, dtype)

    def forget(self) -> None:
        self.own.forget()
        self.own_scales = None

    def set_levels(self, levels: Sequence[float]) -> None:
        self.own.set_levels(levels)

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


def _scale(value: Tensor) -> float:
    """ModelError for a scale of zero, by which nothing can be measured."""
    if not value > 0:
        raise ModelError("The test images are all alike: they cannot be compared with each other.")
    return float(value)


def scaled(values: Tensor, scale: float) -> Tensor:
    """Values v of maps or scores -> v / (v + scale): 0.5 where normal images come."""
    return values / (values + scale)
