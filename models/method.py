"""The contract of a method: from tokens and a memory of normal images to anomaly maps.

The interface lies before matching: a method gets tokens and its own memory, which suits a nearest neighbour
as well as a subspace. Method names are compared only in models/methods/registry.py. How to add a method:
docs/extending.md.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from models.encoder import Encoder
from models.features import Features, OfBranches, ScoreMaps, Sizes
from models.matching.candidates import UNRESTRICTED, Matching
from models.matching.memory_bank import MemoryBank
from models.methods.registry import MethodFacts
from models.views.tile_maps import resized, smoothed
from utils.config import MethodConfig
from utils.errors import ModelError
from utils.views import Views


class Memory(Protocol):
    """A method's memory of the references. It is immutable: changes make new ones."""

    def without(self, reference: int, references: int) -> Memory:
        """The memory without one of its `references` (two or more, each with its copies, in order)."""

    def state(self) -> dict[str, Tensor]:
        """The tensors that `Method.restored` needs, for a saved detector."""


class Memories(NamedTuple):
    """A method's memory in each branch of a detector; None in those that it does not use, and before it is
    fitted."""

    whole: Memory | None = None
    tiles: Memory | None = None
    windows: Memory | None = None

    @property
    def all(self) -> list[Memory]:
        """The memories that are not None."""
        return [one for one in self if one is not None]

    @property
    def bytes(self) -> int:
        """The size of all memories in bytes."""
        tensors = [tensor for memory in self.all for tensor in memory.state().values()]
        return sum(tensor.nbytes for tensor in tensors)

    def each(self, function: Callable[[Memory], Memory]) -> Memories:
        """`function` of every memory."""
        return Memories(*(one and function(one) for one in self))

    def _each_bank(self, function: Callable[[MemoryBank], MemoryBank]) -> Memories:
        """`function` of every plain bank; other memories are unchanged."""
        return self.each(lambda one: function(one) if isinstance(one, MemoryBank) else one)

    def beginning(self, references: int, of: int) -> Memories:
        """Those of the first `references` alone, of so many; all memories are plain banks."""
        return self._each_bank(lambda one: one.beginning(one.photographs * references // of))

    def matching_once(self) -> Memories:
        """The same, which keep what is matched against them for others that begin alike, until
        `forget_matched`."""
        return self._each_bank(lambda one: replace(one, matched={}) if one.matched is None else one)

    def forget_matched(self) -> None:
        for memory in self.all:
            if isinstance(memory, MemoryBank) and memory.matched is not None:
                memory.matched.clear()


class Seen(NamedTuple):
    """The digests of B test images that a method takes, their tokens (L,B,N,C), and those of their tiles
    (L,B,T*N,C), which are encoded lazily."""

    digests: Sequence[bytes]
    tokens: Tensor
    tiles: Iterable[Tensor] = ()


TOP_SHARE = 0.005  # of a photograph's patches
TILE_SIGMA = 1.0  # patches: of the Gaussian filter over the maps of tiles

OwnMemory = TypeVar("OwnMemory", bound=Memory)  # a method's own kind of memory


def mean_of_highest(maps: Tensor) -> Tensor:
    """Maps (B,G,G) -> the mean (B,) of the highest TOP_SHARE of each one's patches."""
    flat = maps.flatten(1)
    return flat.topk(max(1, math.ceil(TOP_SHARE * flat.shape[1])), -1).values.mean(-1)


def scaled(values: Tensor, scale: float | Tensor) -> Tensor:
    """Values v of maps or scores -> v / (v + scale) in [0,1): 0.5 at the scale."""
    return values / (values + scale)


class Method(nn.Module, ABC, Generic[OwnMemory], MethodFacts):
    """A method computes anomaly maps from features.

    want: features that it needs besides `tokens`. scales: names of the equal groups of its maps that are
    divided by the scale of held-out references. hottest: the map value at the high end of heat maps, where
    no reference sets it. groups: the number of equal groups of its maps. takes_test_images: whether
    `take_test_images` comes before it is fitted. The rest is in its facts.
    """

    groups: ClassVar[int] = 1
    want: frozenset[str] = frozenset()
    scales: tuple[str, ...] = ()
    hottest: float = 1.0
    takes_test_images: bool = False
    calibration: Tensor
    directions: Tensor

    def __init__(self, width: int, blocks: int, options: MethodConfig | None = None) -> None:
        """`width` C and number of `blocks` L of the backbone's tokens."""
        super().__init__()
        self.width, self.blocks, self.options = width, blocks, options or MethodConfig()
        self.by_category: dict[str, Tensor] = {}  # the directions (2,D) of each category's own words
        if self.scales:
            self.register_buffer("calibration", torch.zeros(len(self.scales)))

    @classmethod
    def of_heads(
        cls, width: int, blocks: int, options: MethodConfig, heads: Mapping[str, Tensor] | None
    ) -> Method:
        """The method with a checkpoint's trained `heads` (None: there is no checkpoint); ModelError where it
        needs some."""
        return cls(width, blocks, options)

    def copied(self) -> Self:
        """An independent copy, which shares the trained parameters."""
        return deepcopy(self, {id(part): part for part in self.parameters()})

    def unfitted(self) -> Self:
        """An independent copy that has seen no images; it shares the trained parameters."""
        other = self.copied()
        other.forget()
        return other

    def alone(self) -> Method:
        """The method without what compares test images."""
        return self

    def set_category(self, category: str) -> None:
        """From now on text names this category, where each has words of its own."""
        if self.by_category:
            self.directions = self.by_category[category].to(self.directions.device)

    @property
    def needs_references(self) -> bool:
        """Whether it must be fitted to references before it can score."""
        return not self.added_by

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> OwnMemory:
        """The memory of normal images whose features come in `parts`; `match`: how it will be searched.
        ModelError for a method without references."""
        raise ModelError(
            f"Method {self.name} takes no references; {self.added_by} adds it to a method that does."
        )

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> OwnMemory:
        """The memory with this `state`, on the state's device, its tokens in `dtype`; KeyError for a missing
        tensor, ValueError for a method without memory."""
        raise ValueError(f"method {self.name} has no memory")

    def take_test_images(self, seen: Iterable[Seen], count: int, device: torch.device) -> Memories:
        """The memories of `count` test images, for a method that `takes_test_images`; `device`: the
        backbone's."""
        raise NotImplementedError

    def features(self, encode: Encoder, views: Views, memory: OwnMemory | None) -> Features:
        """The features of whole images, on the backbone's device."""
        return encode(views, self.want)

    @abstractmethod
    def raw_maps(self, query: Features, memory: OwnMemory | None, match: Matching = UNRESTRICTED) -> Tensor:
        """The query's anomaly maps (M,B,n), without neighbour aggregation: in [0,1], or not negative where
        the method has `scales`."""

    def refine(self, raw: Tensor) -> Tensor:
        """Raw maps (M,B,G,G) -> maps after neighbour aggregation; by default unchanged."""
        return raw

    def final(self, maps: Tensor) -> Tensor:
        """Refined maps (M,...) -> final maps, on one scale.

        Those of a group become `scaled` by its calibration: 0.5 at the mean peak of normal images. Unchanged
        before `set_scales`.
        """
        if not self.scales:
            return maps
        scale = self.scale_of(len(maps)).view(-1, *[1] * (maps.dim() - 1))
        return torch.where(scale > 0, scaled(maps, scale), maps)

    def scale_of(self, maps: int) -> Tensor:
        """The calibration (M,) of each of so many maps, in equal groups."""
        return self.calibration.repeat_interleave(maps // len(self.scales))

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Final maps (M,B,G,G) -> the mean over maps (B,G,G), and the mean over maps of each one's maximum
        (B,)."""
        return maps.mean(0), maps.flatten(2).amax(-1).mean(0)

    def forget(self) -> None:
        """Resets the values that references have set, besides the memory, before it is fitted anew."""
        if self.scales:
            self.calibration.zero_()

    def fit_tiles(self, parts: Iterable[Features], sizes: Sizes) -> OwnMemory:
        """The memory of the tiles of normal images, as `fit`; the tokens of an image are those of its tiles,
        one after the other."""
        return self.fit(parts, sizes)

    def raw_tile_maps(
        self, query: Features, memory: OwnMemory | None, match: Matching = UNRESTRICTED
    ) -> Tensor:
        """The raw maps (M,B,T*N) of photographs' tiles, one tile after the other; `memory`: of the
        references' tiles."""
        return self.raw_maps(query, memory, match)

    def with_tiles(self, maps: Tensor, tiles: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Final maps of whole images (M,B,G,G) and of their joined tiles (M,B,H,W) -> `summarise` of their
        mean: a map (B,side,side) and a score (B,)."""
        fine = smoothed(resized(tiles, side), TILE_SIGMA)
        return self.summarise((resized(maps, side) + fine) / 2)

    def combine(self, maps: OfBranches, side: int, features: Features) -> ScoreMaps:
        """Final maps of B images, of whole ones (M,B,G,G), tiles (M,B,H,W) and windows (M,B,G,G) -> maps
        (B,side,side) and raw scores. `features`: of the whole images, for what adds more to them."""
        if maps.tiles is not None:
            base, score = self.with_tiles(maps.whole, maps.tiles, side)
        else:
            base, score = self.summarise(maps.whole)
        window = (None, None) if maps.windows is None else self.summarise(maps.windows)
        return ScoreMaps(resized(base, side), score, *window)

    def set_scales(self, values: Sequence[float]) -> None:
        """Sets the mean peak of normal images in each group of `scales`; ModelError unless all are above
        zero."""
        if not all(value > 0 for value in values):
            raise ModelError(
                f"The references give no scale for --method {self.name} (all their maps are zero); use "
                "--method fdsl or nearest."
            )
        self.calibration.copy_(torch.tensor(list(values)))


class BankMethod(Method[MemoryBank]):
    """A method whose memory is a plain memory bank, which all such methods can share."""

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> MemoryBank:
        return MemoryBank.collected(parts, sizes, match.keys)

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> MemoryBank:
        return MemoryBank.restored(state, dtype)


def fitted(memory: OwnMemory | None) -> OwnMemory:
    """The memory; ModelError for None."""
    if memory is None:
        raise ModelError("The detector has no references yet: call fit() first.")
    return memory
