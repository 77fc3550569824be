"""The branches of a detector: whole images, tiles, local windows.

Each encodes its part of an image, has a method fit a memory to the same part of the references, and gives the
raw maps of the image. Memories are frozen; the detector holds them (`models.method.Memories`).
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from models.encoder import Encoder
from models.features import Features, Sizes
from models.matching.candidates import UNRESTRICTED, Matching, window_matching
from models.method import Memory, Method
from models.views.sliding_windows import WindowGrid
from models.views.tile_maps import join_tiles
from utils.config import QUARTER, WindowConfig
from utils.console import progress
from utils.errors import ModelError
from utils.tile_layout import TileLayout
from utils.views import Views

logger = logging.getLogger("fdsl")
SAME = 1e-7  # squared distance of unit tokens, below which they differ by rounding alone
QUARTER_SHARE = 0.23  # of the windows: the whole image and the matching take time too


RawMaps = Callable[[Features, Memory | None, Matching], Tensor]  # Method.raw_maps, or that of tiles


class Query(NamedTuple):
    """B images on the backbone's device, the features of the whole ones, how they are matched (None: as each
    branch does) and, for the branches after that of whole images, its raw and final maps (M,B,G,G)."""

    views: Views
    features: Features
    match: Matching | None = None
    raw: Tensor | None = None
    final: Tensor | None = None


class Branch(ABC):
    """match: how tokens are matched with the memory, unless a caller passes another way."""

    match: Matching

    @property
    @abstractmethod
    def tokens(self) -> int:
        """The number of an image's tokens in each layer."""

    @abstractmethod
    def encoded(self, encode: Encoder, views: Views, want: frozenset[str]) -> Iterator[Features]:
        """The features of images, in one part or, of a single image, in several."""

    @abstractmethod
    def raw_maps(self, method: Method, encode: Encoder, memory: Memory | None, query: Query) -> Tensor:
        """The raw maps of images: (M,B,G,G), of tiles (M,B,H,W)."""

    def fit(self, method: Method, encode: Encoder, references: Views, inside: Tensor | None) -> Memory:
        """The method's memory of K references, encoded one by one. `inside` (K,R,tokens) bool: which patches
        of each one's R copies count (None: all). ModelError where a feature layer gives all patches the same
        token."""
        want = method.want | self.match.want
        every = progress(references.split(1), len(references), "encoding references")
        images: Iterable[Iterator[Features]] = (
            self.encoded(encode, encode.moved(one), want) for one in every
        )
        sizes = [[self.tokens]] * len(references)
        if inside is not None:
            images, sizes = map(_with_inside, images, inside.flatten(0, 1)), inside.sum(-1).tolist()
        parts = _refuse_equal_patches(chain.from_iterable(images))
        return self._fitted(method, parts, sizes)

    @staticmethod
    def _scored(
        raw_maps: RawMaps, parts: Iterable[Features], memory: Memory | None, match: Matching
    ) -> Tensor:
        """A method's raw maps (M,.,n) of all parts, one after the other."""
        raw = [raw_maps(part, memory, one) for part, one in match.over(parts)]
        return raw[0] if len(raw) == 1 else torch.cat(raw, dim=1)

    def _fitted(self, method: Method, parts: Iterable[Features], sizes: Sizes) -> Memory:
        return method.fit(parts, sizes, self.match)


def _refuse_equal_patches(parts: Iterable[Features]) -> Iterator[Features]:
    """The parts; after the last one ModelError where a layer gives all patches of each image (or window) the
    same token."""
    largest = None
    for part in parts:
        if part.tokens.shape[2] > 1:
            away = (tokens.float() - tokens[:, :1].float() for tokens in part.tokens)  # one layer in memory
            distance = torch.stack([tokens.square().sum(-1).amax() for tokens in away])
            largest = distance if largest is None else torch.maximum(largest, distance)
        yield part
    if largest is not None and bool((largest < SAME).any()):
        raise ModelError(
            "The backbone gives all patches of the references the same features, so nothing could be found: "
            "check --pretrained and --layers, and that the references show a part."
        )


def _with_inside(parts: Iterable[Features], row: Tensor) -> Iterator[Features]:
    """The parts of one image, each with its own of the image's tokens that count, `row` (tokens,) bool."""
    first = 0
    for part in parts:
        images, tokens = part.tokens.shape[1:3]
        yield part._replace(inside=row[first : first + images * tokens].view(images, tokens))
        first += images * tokens


@dataclass(frozen=True)
class WholeImages(Branch):
    """Images as they are, of `grid` x `grid` patches."""

    grid: int
    match: Matching = UNRESTRICTED

    @property
    def tokens(self) -> int:
        return self.grid**2

    def encoded(self, encode: Encoder, views: Views, want: frozenset[str]) -> Iterator[Features]:
        yield encode(views, want)

    def raw_maps(self, method: Method, encode: Encoder, memory: Memory | None, query: Query) -> Tensor:
        raw = self._scored(method.raw_maps, [query.features], memory, query.match or self.match)
        return raw.unflatten(-1, (self.grid, self.grid))


@dataclass(frozen=True)
class Tiles(Branch):
    """The tiles of images, in a `layout`; the tokens of an image's tiles follow each other, tile by tile
    (L,B,T*N,C)."""

    layout: TileLayout
    match: Matching = UNRESTRICTED

    @property
    def tokens(self) -> int:
        return len(self.layout) * self.layout.grid**2

    def encoded(self, encode: Encoder, views: Views, want: frozenset[str]) -> Iterator[Features]:
        if views.tiles is None:
            raise ValueError("These images come without their tiles.")
        tiles, count = views.tiles, views.tiles.shape[:2]
        features = encode.crops(views, "tiles", (), lambda: tiles.flatten(0, 1), want)
        yield features.each_tokens(lambda tokens: tokens.unflatten(1, count).flatten(2, 3))

    def raw_maps(self, method: Method, encode: Encoder, memory: Memory | None, query: Query) -> Tensor:
        encoded = self.encoded(encode, query.views, method.want)
        parts = (part._replace(stored_as=query.features.stored_as) for part in encoded)
        match = (query.match or self.match).of_tiles()
        return join_tiles(self._scored(method.raw_tile_maps, parts, memory, match), self.layout)

    def _fitted(self, method: Method, parts: Iterable[Features], sizes: Sizes) -> Memory:
        return method.fit_tiles(parts, sizes)


@dataclass
class AtOnce:
    """How many window patches are encoded at once, which a detector shares with its copies."""

    patches: int


@dataclass(frozen=True, eq=False)
class Windows(Branch):
    """Local windows (LFE). `budget`: at most so many of an image, chosen by its map (0: all)."""

    grid: WindowGrid
    patch_size: int
    match: Matching
    budget: int
    at_once: AtOnce

    def __len__(self) -> int:
        return len(self.grid)

    @property
    def tokens(self) -> int:
        return len(self.grid) * self.grid.encoded**2

    @property
    def chunk(self) -> int:
        """Windows encoded at once."""
        return max(1, self.at_once.patches // self.grid.encoded**2)

    def halve(self, patches: int) -> bool:
        """Halves the number of windows encoded at once; False where it is one already, or where they have
        fewer than `patches` patches."""
        now = min(self.chunk, len(self))
        if now <= 1 or now * self.grid.encoded**2 < patches:
            return False
        self.at_once.patches = now // 2 * self.grid.encoded**2
        logger.warning("Out of memory with %d windows at once: going on with %d.", now, now // 2)
        return True

    def encoded(
        self, encode: Encoder, views: Views, want: frozenset[str], chosen: Sequence[int] | None = None
    ) -> Iterator[Features]:
        """Of one image, chunk by chunk: all windows, or the `chosen` ones."""
        (image,) = views.whole
        numbers = range(len(self.grid)) if chosen is None else chosen
        for start in range(0, len(numbers), self.chunk):
            which = tuple(numbers[start : start + self.chunk])
            cut = partial(self.grid.cut, image, self.patch_size, which)
            side = self.grid.encoded * self.patch_size
            features = encode.crops(views, "whole", (self.grid.size, *which), cut, want, side)
            yield features._replace(patches=self.grid.seen_in(which, features.tokens.device))

    def raw_maps(self, method: Method, encode: Encoder, memory: Memory | None, query: Query) -> Tensor:
        """As Branch.raw_maps. With a budget the map that the whole images' final maps give says where windows
        are worth it, and their raw maps stand where none is."""
        match = query.match or self.match

        def scored(image: Views, numbers: Sequence[int] | None = None) -> Tensor:
            parts = self.encoded(encode, image, method.want | match.want, numbers)
            return self.grid.as_cut(self._scored(method.raw_maps, parts, memory, match))

        images = query.views.split(1)
        if not self.budget:
            return self.grid.stitch(torch.stack(list(map(scored, images)), dim=1))  # by a GPU in one step
        if query.raw is None or query.final is None:
            raise ValueError("Windows are chosen by the maps of whole images, which are missing.")
        weights = method.summarise(query.final)[0].cpu()  # of all images at once, for the host waits
        chosen = [self.grid.choose(weight, self.budget) for weight in weights]
        stitched = [
            self.grid.stitch(scored(image, numbers), numbers, raw)
            for image, numbers, raw in zip(images, chosen, query.raw.unbind(1))
        ]
        return torch.stack(stitched, dim=1)


def windows_of(settings: WindowConfig, grid: int, patch_size: int, at_once: AtOnce) -> Windows | None:
    """The windows of images of `grid` x `grid` patches; None without LFE. ModelError for windows that do not
    fit."""
    if settings.winmode == "nan":
        return None
    try:
        places = WindowGrid(grid, settings.win_size, settings.win_stride, settings.win_zip)
    except ValueError as error:
        raise ModelError(str(error)) from error
    quarter = settings.window_budget == QUARTER
    budget = math.ceil(QUARTER_SHARE * len(places)) if quarter else settings.window_budget
    return Windows(places, patch_size, window_matching(settings.index_memory), budget, at_once)
