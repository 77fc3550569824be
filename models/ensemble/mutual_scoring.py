"""Mutual scoring of the test images around a method with references, on one scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.encoder import Encoder
from models.features import Features, FinalMaps, ScoreMaps, Sizes
from models.matching.candidates import UNRESTRICTED, Matching
from models.method import Memories, Memory, Method, Seen
from models.methods.batch import NO_TEST_IMAGES, Batch, BatchMemory, memories_of, with_stored_tokens
from models.views.tile_maps import resized
from utils.errors import ModelError


@dataclass(frozen=True)
class ComparedImages:
    """The test images of mutual scoring, and its scales: medians of their map peaks and of their scores."""

    memory: BatchMemory
    map_scale: float
    score_scale: float


class WithMutualScoring(Method[Memory]):
    """A method whose maps and scores are combined with those of mutual scoring; all else is its own.

    A value v of either becomes v / (v + scale), 0.5 for a usual normal image, and the two are averaged. The
    scales are means of held-out references for the method's own maps and scores (`own_scales`), and medians
    of the test images, most of which must be normal, for mutual scoring (`test_images`).
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
        """Sets the scales of the method's own maps and scores; ModelError for zero."""
        if not (peak > 0 and score > 0):
            raise ModelError("The references give no scale for --with-batch: all their maps are zero.")
        self.own_scales = (peak, score)

    def take_test_images(
        self, seen: Iterable[Seen], count: int, fitted: Memories, device: torch.device
    ) -> Memories:
        """Takes the images without their tiles, and sets the scales of mutual scoring."""
        memory, _ = memories_of((one._replace(tiles=()) for one in seen), count)
        scored = [
            self._scored(Features(photograph[:, None].to(device), stored_as=(number,)), memory)
            for number, photograph in enumerate(memory.tokens_for(device))
        ]
        peaks = torch.stack([of_image.max() for of_image, _ in scored]).cpu()
        scores = torch.cat([score for _, score in scored]).cpu()
        self.test_images = ComparedImages(memory, _scale(peaks.quantile(0.5)), _scale(scores.quantile(0.5)))
        return fitted

    def features(self, encode: Encoder, images: Tensor, originals: Tensor, memory: Memory | None) -> Features:
        """Stored tokens of test images, if the method needs nothing else; others are encoded."""
        if self.test_images is None:
            return encode(images, self.want)
        compared = self.test_images.memory
        stored_as = compared.of(originals)
        if self.want or all(number is None for number in stored_as):
            return encode(images, self.want)._replace(stored_as=stored_as)
        return with_stored_tokens(encode, images, compared, stored_as)

    def combine(self, maps: FinalMaps, features: Features, side: int) -> ScoreMaps:
        """The means of the method's own maps and scores and of mutual scoring's; only the method's before its
        scales are set."""
        own = self.own.combine(maps, features, side)
        if self.own_scales is None:
            return own
        if self.test_images is None:
            raise ModelError(NO_TEST_IMAGES)
        mutual, mutual_score = self._scored(features, self.test_images.memory)
        mutual = scaled(resized(mutual, own.base.shape[-1]), self.test_images.map_scale)
        mutual_score = scaled(mutual_score, self.test_images.score_scale)
        map_scale, score_scale = self.own_scales
        base = (scaled(own.base, map_scale) + mutual) / 2
        base_score = (scaled(own.base_score, score_scale) + mutual_score) / 2
        if own.window is None or own.window_score is None:
            return ScoreMaps(base, base_score)
        window = (scaled(own.window, map_scale) + mutual) / 2
        window_score = (scaled(own.window_score, score_scale) + mutual_score) / 2
        return ScoreMaps(base, base_score, window, window_score)

    def _scored(self, features: Features, memory: BatchMemory) -> tuple[Tensor, Tensor]:
        """A map (B,G,G) and a score (B,) of mutual scoring."""
        grid = math.isqrt(features.tokens.shape[2])
        return self.batch.summarise(self.batch.raw_maps(features, memory).unflatten(-1, (grid, grid)))

    # Passed on to the method itself

    @property
    def directions(self) -> Tensor:  # type: ignore[override]
        return self.own.directions

    @directions.setter
    def directions(self, value: Tensor) -> None:
        self.own.directions = value

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

    def set_scales(self, values: Sequence[float]) -> None:
        self.own.set_scales(values)

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
    """The scale as a number; ModelError for zero."""
    if not value > 0:
        raise ModelError("The test images are all alike: they cannot be compared with each other.")
    return float(value)


def scaled(values: Tensor, scale: float) -> Tensor:
    """Values v of maps or scores -> v / (v + scale): 0.5 at the scale."""
    return values / (values + scale)
