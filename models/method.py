"""The contract of a method: from tokens and a memory of normal parts to anomaly maps.

The seam lies before matching: a method gets tokens and its own memory, so that a nearest neighbour fits as
well as a subspace does. What a method is called is compared nowhere but in models/methods/registry.py. How to
add one: docs/extending.md.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from models.encoding_cache import Encoder
from models.features import Features, FinalMaps, ScoreMaps, Sizes
from models.matching.candidates import UNRESTRICTED, Matching
from models.matching.memory_bank import MemoryBank
from models.method_facts import MethodFacts
from models.views.tile_maps import resized, smoothed
from utils.config import MethodConfig
from utils.errors import ModelError
from utils.room import Room


class Memory(Protocol):
    """What a method keeps of the references. Nothing in it is ever changed: other memories are new ones."""

    def without(self, reference: int, references: int) -> Memory:
        """The memory as if one of its `references` (two or more, each with its copies, in order) had never
        been seen."""

    def state(self) -> dict[str, Tensor]:
        """All that `Method.restored` needs, for a saved detector."""


@dataclass(frozen=True)
class Memories:
    """What a method keeps of whole images, of their windows and of their tiles; None of what it does not look
    at, and before it is fitted."""

    whole: Memory | None = None
    windows: Memory | None = None
    tiles: Memory | None = None

    @property
    def all(self) -> list[Memory]:
        """Those that there are."""
        return [one for one in (self.whole, self.windows, self.tiles) if one is not None]

    @property
    def banks(self) -> list[MemoryBank]:
        """Those that are plain memory banks."""
        return [one for one in self.all if isinstance(one, MemoryBank)]

    @property
    def bytes(self) -> int:
        """How much memory they take."""
        held = [part for memory in self.all for part in memory.state().values()]
        return sum(part.numel() * part.element_size() for part in held)

    def each(self, function: Callable[[Memory], Memory]) -> Memories:
        """`function` of every memory."""
        return Memories(*(one and function(one) for one in (self.whole, self.windows, self.tiles)))

    def each_bank(self, function: Callable[[MemoryBank], MemoryBank]) -> Memories:
        """`function` of every plain bank; other memories as they are."""
        return self.each(lambda one: function(one) if isinstance(one, MemoryBank) else one)


class Seen(NamedTuple):
    """Test images (B,3,S,S) that a method takes, their tokens (L,B,N,C), and those of their tiles
    (L,B,T*N,C), encoded as they are asked for."""

    images: Tensor
    tokens: Tensor
    tiles: Iterable[Tensor] = ()


TOP_SHARE = 0.005  # of a photograph's patches
TILE_SIGMA = 1.0  # patches: of the Gauss filter over the maps of tiles

OwnMemory = TypeVar("OwnMemory", bound=Memory)  # a method's own kind of memory


def mean_of_highest(maps: Tensor) -> Tensor:
    """Maps (B,G,G) -> the mean (B,) of the highest TOP_SHARE of each one's patches."""
    flat = maps.flatten(1)
    return flat.topk(max(1, math.ceil(TOP_SHARE * flat.shape[1])), -1).values.mean(-1)


class Method(nn.Module, ABC, Generic[OwnMemory], MethodFacts):
    """What turns features into anomaly maps.

    want: what it needs of a backbone besides `tokens`. scales: names of the equal groups of its maps that are
    brought to one scale by what held-out references reach. hottest: the map value that pictures show hottest
    where no reference says better. groups: how many equal groups its maps are of.
    All else is in its facts.
    """

    groups: ClassVar[int] = 1
    want: frozenset[str] = frozenset()
    scales: tuple[str, ...] = ()
    hottest: float = 1.0
    levels: Tensor
    directions: Tensor

    def __init__(self, width: int, blocks: int, options: MethodConfig | None = None) -> None:
        """`width` C and number of `blocks` L of the backbone's tokens."""
        super().__init__()
        self.width, self.blocks, self.options = width, blocks, options or MethodConfig()
        if self.scales:
            self.register_buffer("levels", torch.zeros(len(self.scales)))

    @classmethod
    def of_heads(
        cls, width: int, blocks: int, options: MethodConfig, heads: Mapping[str, Tensor] | None
    ) -> Method:
        """The method with a checkpoint's trained `heads` (None: there is no checkpoint); ModelError where it
        needs some."""
        return cls(width, blocks, options)

    @classmethod
    def of_state(cls, width: int, blocks: int, options: MethodConfig, state: Mapping[str, Tensor]) -> Method:
        """The method of a saved detector; RuntimeError for a state that is not its own."""
        method = cls(width, blocks, options)
        method.load_state_dict(state)
        return method

    def copied(self) -> Self:
        """A copy that goes its own way from now on; trained parameters are shared."""
        return deepcopy(self, {id(part): part for part in self.parameters()})

    def unfitted(self) -> Self:
        """A copy that nothing has been shown to."""
        return self.copied()

    @property
    def takes_test_images(self) -> bool:
        """Whether `take_test_images` comes first."""
        return self.transductive

    @property
    def needs_references(self) -> bool:
        """Whether it can score before it is fitted to normal images."""
        return True

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> OwnMemory:
        """A memory of normal images whose features come in `parts`; `match` says how it will be searched.
        ModelError where a method takes none."""
        raise ModelError(
            f"Method {self.name} takes no references; {self.added_by} adds it to a method that does."
        )

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> OwnMemory:
        """The memory whose `state` this is, on the state's device, its tokens in `dtype`; KeyError where a
        part is missing, ValueError where one has another shape."""
        raise ValueError(f"method {self.name} has no memory")

    def take_test_images(
        self, seen: Iterable[Seen], count: int, room: Room, known: Memories, like: Tensor
    ) -> Memories:
        """Its memories once it has taken `count` test images, whose tokens are kept in `room`;
        `known`: those before; `like`: of the precision and device of a backbone's tokens. For methods
        that say `takes_test_images`."""
        raise NotImplementedError

    def features(
        self, encode: Encoder, images: Tensor, originals: Tensor, memory: OwnMemory | None, like: Tensor
    ) -> Features:
        """The features of whole images (B,3,S,S) uint8, which are `originals` where they came from; `like`:
        as for take_test_images."""
        return encode(images, self.want)

    @abstractmethod
    def raw_maps(self, query: Features, memory: OwnMemory | None, match: Matching = UNRESTRICTED) -> Tensor:
        """The query's anomaly maps (M,B,n) before their neighbours are seen: in [0,1], or not negative
        where the method has `scales`."""

    def refine(self, raw: Tensor) -> Tensor:
        """Raw maps (M,B,G,G) -> those that have looked at their neighbours; as they are unless a method says
        how."""
        return raw

    def final(self, maps: Tensor) -> Tensor:
        """Refined maps (M,...) -> those that count, on one scale.

        A map m of a group with a level becomes m / (m + level) in [0,1): 0.5 is as high as normal patches
        come. As they are before `set_levels`.
        """
        if not self.scales:
            return maps
        levels = self.levels.repeat_interleave(len(maps) // len(self.scales))
        levels = levels.view(-1, *[1] * (maps.dim() - 1))
        return torch.where(levels > 0, maps / (maps + levels), maps)

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Final maps (M,B,G,G) -> the mean over maps (B,G,G), and the mean over maps of each one's maximum
        (B,)."""
        return maps.mean(0), maps.flatten(2).amax(-1).mean(0)

    def forget(self) -> None:
        """Forgets what references have set besides its memory: other ones are going to be fitted."""
        if self.scales:
            self.levels.zero_()

    def fit_tiles(self, parts: Iterable[Features], sizes: Sizes) -> OwnMemory:
        """A memory of the tiles of normal images, as `fit`; the tokens of an image's tiles come one tile
        after the other."""
        return self.fit(parts, sizes)

    def raw_tile_maps(
        self, query: Features, memory: OwnMemory | None, match: Matching = UNRESTRICTED
    ) -> Tensor:
        """The raw maps (M,B,T*N) of photographs' tiles, whose tokens come one tile after the other; `memory`
        holds those of the references' tiles."""
        return self.raw_maps(query, memory, match)

    def with_tiles(self, maps: Tensor, tiles: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Final maps of whole images (M,B,G,G) and of their tiles put together (M,B,H,W) -> what `summarise`
        gives of both, half and half: a map (B,side,side) and a score (B,)."""
        fine = smoothed(resized(tiles, side), TILE_SIGMA)
        return self.summarise((resized(maps, side) + fine) / 2)

    def without_tiles(self, maps: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """`summarise` of maps (M,B,G,G), its map brought to (B,side,side)."""
        shown, score = self.summarise(maps)
        return resized(shown, side), score

    def combine(self, maps: FinalMaps, features: Features, side: int) -> ScoreMaps:
        """Final maps of B images with these features of the whole, -> maps (B,side,side) and raw scores."""
        if maps.tiles is not None:
            base = self.with_tiles(maps.whole, maps.tiles, side)
        elif side != maps.whole.shape[-1]:
            base = self.without_tiles(maps.whole, side)
        else:
            base = self.summarise(maps.whole)
        window = (None, None) if maps.windows is None else self.summarise(maps.windows)
        return ScoreMaps(*base, *window)

    def set_levels(self, levels: Sequence[float]) -> None:
        """How high normal patches come in each group of `scales`; ModelError unless all are above zero."""
        if not all(level > 0 for level in levels):
            raise ModelError(
                f"The references give no level for --method {self.name} (all their maps are zero); use "
                "--method fdsl or nearest."
            )
        self.levels.copy_(torch.tensor(list(levels)))


class BankMethod(Method[MemoryBank]):
    """A method whose memory is a plain memory bank, the same as that of every such method."""

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> MemoryBank:
        return MemoryBank.collected(parts, sizes, match.keys)

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> MemoryBank:
        return MemoryBank.restored(state, dtype, self.width, self.blocks)


def fitted(memory: OwnMemory | None) -> OwnMemory:
    """The memory; ModelError where there is none yet."""
    if memory is None:
        raise ModelError("The detector has no references yet: call fit() first.")
    return memory
