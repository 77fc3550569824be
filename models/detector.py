"""The detector: from k normal photographs and a query to anomaly maps and scores (docs/design.md,
section 2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import NOTHING_MORE, Backbone
from models.encoding_cache import EncodedOnce
from models.ensemble.mutual_scoring import MutualScoring
from models.features import Features, ScoreMaps
from models.matching.candidates import EVERYTHING, Matching, window_matching
from models.matching.memory_bank import MemoryBank
from models.method import Memory, Method
from models.methods.batch import BatchMemory, Kept, digest_of
from models.views.sliding_windows import WindowGrid
from models.views.tile_maps import FINER, join_tiles
from utils.config import QUARTER, WHOLE_IMAGE, WindowConfig
from utils.errors import ModelError
from utils.memory import Halving
from utils.room import Room, in_memory
from utils.tile_layout import TileLayout, tiles_for

logger = logging.getLogger("fdsl")

HALF = 0.5  # of a patch's area, from which on it counts
QUARTER_SHARE = 0.23  # of the windows: the whole image and the matching take time too
# Window patches encoded at once, to begin with.
WINDOW_CHUNK_PATCHES = {"cpu": 8 * 169, "mps": 42 * 169, "cuda": 169 * 169}
NO_WINDOWS = WindowConfig(winmode="nan")


class Inside(NamedTuple):
    """Which patches of K references and their rotated copies show the photograph and count, bool: of whole
    images (K,N), and of their tiles (K,T*N) where there are some."""

    whole: Tensor
    tiles: Tensor | None = None


@dataclass
class AtOnce:
    """How many window patches are encoded at once: what a detector and its copies know of the memory."""

    patches: int


class Detector(nn.Module):
    """A frozen backbone, a method, and the method's memory of one category's references.

    `fit` comes before `forward`, unless the method needs no references. Images are pixels of
    uint8 (B,3,S,S); with a `layout` of tiles (B,1+T,3,S,S), each image before its tiles.
    """

    def __init__(
        self, backbone: Backbone, method: Method, image_size: int, windows: WindowConfig = NO_WINDOWS
    ) -> None:
        super().__init__()
        if (method.width, method.blocks) != (backbone.width, len(backbone.layers)):
            raise ModelError(
                f"The heads are for {method.blocks} blocks of width {method.width}; the backbone gives "
                f"{len(backbone.layers)} of width {backbone.width}: use the backbone they were trained on."
            )
        self.backbone, self.method = backbone, method.to(backbone.device).eval()
        self.image_size, self.settings, self.grid = image_size, windows, backbone.grid(image_size)
        self.windows = _window_grid(self.grid, windows)
        self.budget = _window_budget(windows, self.windows)
        self.window_match = window_matching(windows.index_memory)
        default = WINDOW_CHUNK_PATCHES["cpu"]
        self.at_once = AtOnce(WINDOW_CHUNK_PATCHES.get(backbone.device.type, default))
        self.memory: Memory | None = None
        self.window_memory: Memory | None = None
        self.tile_memory: Memory | None = None
        self.layout: TileLayout | None = None
        self.mutual = MutualScoring(method.width, method.blocks) if method.options.with_batch else None
        self.once: EncodedOnce | None = None
        self.roi: Tensor | None = None  # (S,S) uint8, 255 where the photograph is evaluated; None: everywhere
        self.counting: dict[tuple[int, int], Tensor] = {}  # of grids of patches: which count
        self.directions: dict[str, Tensor] = {}  # category -> the directions (2,D) of its own words

    def encode(
        self, images: Tensor, want: frozenset[str] = NOTHING_MORE, side: int | None = None
    ) -> Features:
        """The backbone's features of images (B,3,H,H), resized to `side` pixels."""
        return (self.once or self.backbone.encode)(images, want, side)

    @contextmanager
    def encoding_once(self) -> Iterator[None]:
        """Within it a batch that comes again, to this detector or to one `without` a reference, is encoded
        once."""
        self.once = EncodedOnce(self.backbone.encode)
        try:
            yield
        finally:
            self.once = None

    def restrict(self, roi: Tensor | None) -> None:
        """From now on patches count where `roi` (S,S) uint8 is 255, by the larger part of their area: in the
        memory bank, in maps and in scores. None: everywhere. ModelError where it leaves no patch."""
        self.roi, self.counting = roi, {}
        if roi is not None and not self.counts(self.grid, self.grid).any():
            raise ModelError(
                "The region of interest covers no patch by half: draw it larger, or take a larger "
                "--image-size."
            )

    def counts(self, height: int, width: int) -> Tensor:
        """Which of height x width patches of a photograph count, bool, on the backbone's device."""
        size = height, width
        if size not in self.counting:
            if self.roi is None:
                found = torch.ones(size, dtype=torch.bool)
            else:
                found = F.adaptive_avg_pool2d(self.roi[None].float() / 255, size)[0] >= HALF
            self.counting[size] = found.to(self.backbone.device)
        return self.counting[size]

    def _counted(self, maps: Tensor) -> Tensor:
        """Maps (...,H,W) with zeros where patches do not count."""
        return maps if self.roi is None else maps * self.counts(maps.shape[-2], maps.shape[-1])

    def speak_of(self, category: str) -> None:
        """From now on text names this category, where each has words of its own."""
        if self.directions:
            self.method.directions = self.directions[category].to(self.backbone.device)

    @property
    def side(self) -> int:
        """Patches along a side of its maps: with tiles FINER times the backbone's."""
        return self.grid if self.settings.tiles == 1 else FINER * self.grid

    def lay_tiles(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Decides how photographs are cut into tiles from the references' sizes (width, height); forgets
        its memory."""
        self.memory = self.window_memory = self.tile_memory = None
        patch = self.backbone.patch_size
        self.layout = tiles_for(sizes, self.settings.tiles, self.grid, patch) if sizes else None

    @property
    def matches_whole_image(self) -> bool:
        """Whether its windows are matched with the references' whole images."""
        return self.windows is not None and self.settings.window_memory == WHOLE_IMAGE

    @property
    def is_transductive(self) -> bool:
        """Whether `take_test_images` comes first."""
        return self.mutual is not None or self.method.transductive

    @property
    def bytes_of_test_image(self) -> int:
        """What the tokens of one test image take, in two bytes a number and without
        tiles."""
        return 2 * len(self.backbone.layers) * self.grid**2 * self.backbone.width

    @torch.no_grad()
    def take_test_images(self, images: Iterable[Tensor], count: int, room: Room = in_memory) -> None:
        """Takes the `count` test images that stand for all of them, images of (B,[1+T,]3,S,S);
        what it saw before is forgotten. Their tokens are kept in `room`."""
        want = self.method.want if self.mutual is None else self.mutual.batch.want
        whole, parts, digests = Kept(count, room), Kept(count, room), []
        encode = Halving(lambda views: self.encode(views, want).tokens, _join_tokens)
        encode_tiles = Halving(lambda tiles: self._encode_tiles(tiles).tokens, _join_tokens)
        for part in images:
            views, tiles = self._views(part)
            digests += [digest_of(image) for image in views]
            whole.add(encode(views))
            if tiles is not None and self.mutual is None:
                parts.add(encode_tiles(tiles))
        memory = whole.memory(digests)
        if self.mutual is not None:
            like = torch.empty(0, dtype=self.backbone.dtype, device=self.backbone.device)
            self.mutual.saw(memory, self.grid, like)
            return
        self.memory = memory
        if self.layout is not None:
            self.tile_memory = parts.memory(digests, len(self.layout))

    @torch.no_grad()
    def fit(self, references: Tensor, inside: Inside | None = None) -> None:
        """Fills the memory from one category's references (K,[1+T,]3,S,S); what it held before is
        forgotten. `inside`: which of their patches show the photograph."""
        if not self.method.needs_references:
            return
        if len(references) == 0:
            raise ModelError("There is no reference; only --fd none works without.")
        self.memory = self.window_memory = self.tile_memory = None  # free them before the new ones are made
        self.method.forget()
        if self.mutual is not None:
            self.mutual.own = None
        if self.layout is not None:
            seen = inside and inside.tiles
            tiles = (self._encode_tiles(views[None, 1:]) for views in references)
            count = len(references) * len(self.layout) * self.grid**2
            self.tile_memory = self.method.fit_tiles(*_inside(tiles, seen, count))
            references = references[:, 0]
        whole = (self.encode(image[None], self.method.want) for image in references)
        count = len(references) * self.grid**2
        self.memory = self.method.fit(*_inside(whole, inside and inside.whole, count))
        if self.matches_whole_image:
            self.window_memory = self.memory
        elif self.windows is not None:
            parts = (part for image in references for part in self._encode_windows(image, self.window_match))
            count = len(references) * len(self.windows) * self.settings.encoded_side**2
            self.window_memory = self.method.fit(parts, count, self.window_match)

    def without(self, reference: int, references: int) -> Detector:
        """A detector as this one, but for one of its `references`, which it has never seen."""
        other = self.empty_copy(self.method)
        other.layout, other.mutual = self.layout, self.mutual
        for name in ("memory", "window_memory", "tile_memory"):
            memory = getattr(self, name)
            setattr(other, name, None if memory is None else memory.without(reference, references))
        return other

    def take_memory(self, other: Detector) -> None:
        """Takes over the memory of another detector of the same backbone and settings."""
        self.memory, self.window_memory = other.memory, other.window_memory
        self.tile_memory, self.layout = other.tile_memory, other.layout
        self.mutual = copy(other.mutual)

    def take_first_references(self, other: Detector, references: int, of: int) -> None:
        """As take_memory, but the first of its references alone, of which there are so many; all memories are
        plain banks, and there are no tiles, or these are all of them."""
        self.take_memory(other)
        self.memory, self.window_memory, self.tile_memory = (
            one.beginning(one.photographs * references // of) if isinstance(one, MemoryBank) else one
            for one in (self.memory, self.window_memory, self.tile_memory)
        )

    def matching_once(self) -> None:
        """From now on what is matched against its banks is kept for others whose banks begin alike, until
        `forget_matched`."""
        self.memory, self.window_memory, self.tile_memory = (
            replace(one, known={}) if isinstance(one, MemoryBank) and one.known is None else one
            for one in (self.memory, self.window_memory, self.tile_memory)
        )

    def forget_matched(self) -> None:
        for memory in (self.memory, self.window_memory, self.tile_memory):
            if isinstance(memory, MemoryBank) and memory.known is not None:
                memory.known.clear()

    def another(self, windows: WindowConfig | None = None) -> Detector:
        """A detector of the same backbone and settings, or with other `windows`, without memory;
        trained heads are shared."""
        heads = {id(part): part for part in self.method.parameters()}
        other = Detector(
            self.backbone, deepcopy(self.method, heads), self.image_size, windows or self.settings
        )
        other.at_once, other.once, other.directions = self.at_once, self.once, self.directions
        other.roi, other.counting = self.roi, self.counting
        return other

    @property
    def looks_for(self) -> frozenset[str]:
        """All that it wants of the backbone besides tokens, of whole images or of windows."""
        return self.method.want | (self.window_match.want if self.windows is not None else NOTHING_MORE)

    @property
    def memory_bytes(self) -> int:
        """Bytes of its memory."""
        windows = None if self.matches_whole_image else self.window_memory
        memories = [self.memory, windows, self.tile_memory]
        held = [part for memory in memories if memory is not None for part in memory.state().values()]
        return sum(part.numel() * part.element_size() for part in held)

    def of_whole_images(self) -> Detector:
        """It without windows, and with its memory of whole images."""
        other = self.another(NO_WINDOWS)
        other.memory = self.memory
        return other

    @property
    def looks_longer(self) -> float:
        """How many times the patches of a whole image all its windows have."""
        windows = 0 if self.windows is None else len(self.windows)
        return windows * self.settings.encoded_side**2 / self.grid**2

    def empty_copy(self, method: Method) -> Detector:
        """A detector of the same backbone and settings without memory."""
        other = Detector(self.backbone, method, self.image_size, self.settings)
        other.at_once, other.once, other.directions = self.at_once, self.once, self.directions
        other.roi, other.counting = self.roi, self.counting
        return other

    @torch.no_grad()
    def forward(self, images: Tensor, match: Matching | None = None) -> ScoreMaps:
        """Anomaly maps and raw scores of images (B,[1+T,]3,S,S) uint8; what one image gets does not depend on
        the others.

        `match` stands in for the usual ways of matching, for whole images, windows and tiles.
        """
        there = self._moved(images)
        whole, tiles = self._views(there)
        features = self._features(whole, self._views(images)[0])
        raw = self._raw_maps(features, match)
        final = self.final_maps(raw)
        if tiles is not None:
            of_tiles = self._tile_maps(tiles, match, features.shown)
            found = ScoreMaps(*self.method.with_tiles(final, of_tiles, self.side))
        elif self.side != self.grid:
            found = ScoreMaps(*self.method.without_tiles(final, self.side))
        else:
            found = ScoreMaps(*self.method.summarise(final))
        found = replace(found, base=self._counted(found.base))
        if self.windows is not None:
            stitched = self.raw_window_maps(whole, raw, found.base, match)
            found = ScoreMaps(found.base, found.base_score, *self.method.summarise(self.final_maps(stitched)))
        return found if self.mutual is None else self.mutual.added(found, features)

    def _moved(self, images: Tensor) -> Tensor:
        """The images on the backbone's device."""
        device = self.backbone.device
        if self.once is not None:
            return self.once.moved(images, device)
        return images.to(device, non_blocking=device.type == "cuda")

    def _features(self, whole: Tensor, images: Tensor) -> Features:
        """The features of whole images, which are `images` where they came from. Of those that it was shown
        the tokens are kept, and serve where no more than tokens is wanted and their precision is that of the
        backbone, or where nothing else uses them."""
        shown = self.memory if self.mutual is None else self.mutual.memory
        if not isinstance(shown, BatchMemory):
            return self.encode(whole, self.method.want)
        numbers = shown.of(images)
        exact = not self.method.want and shown.tokens.dtype == self.backbone.dtype
        new = [place for place, number in enumerate(numbers) if number is None]
        if len(new) == len(numbers) or not (exact or self.method.transductive):
            return self.encode(whole, self.method.want)._replace(shown=numbers)
        like = torch.empty(0, dtype=self.backbone.dtype, device=self.backbone.device)
        encoded = iter(self.encode(whole[new]).tokens.unbind(1) if new else ())
        known = shown.tokens_for(like)
        tokens = [next(encoded) if number is None else known[number].to(like) for number in numbers]
        return Features(torch.stack(tokens, 1), shown=numbers)

    @torch.no_grad()
    def raw_maps(self, images: Tensor, match: Matching | None = None) -> Tensor:
        """The method's raw maps of whole images: (M,B,G,G)."""
        return self._raw_maps(self.encode(images, self.method.want), match)

    def _raw_maps(self, features: Features, match: Matching | None) -> Tensor:
        """The same from the images' features."""
        raw = self.method.raw_maps(features, self.memory, match or EVERYTHING)
        return raw.unflatten(-1, (self.grid, self.grid))

    @torch.no_grad()
    def raw_window_maps(
        self, images: Tensor, raw: Tensor, base: Tensor, match: Matching | None = None
    ) -> Tensor:
        """LFE's raw maps of images, stitched from their windows: (M,B,G,G).

        With a window budget the whole images' maps `base` (B,G,G) say where windows are worth it, and their
        raw maps stand where none is.
        """
        found, grid = [], self.window_grid
        if not self.budget:
            found = [self._score_windows(image, None, match) for image in images]
            return grid.stitch(torch.stack(found, dim=1))
        for number, image in enumerate(images):
            chosen = grid.choose(base[number], self.budget)
            maps = self._score_windows(image, chosen, match)
            found.append(grid.stitch(maps, chosen, raw[:, number]))
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def scale_maps(self, images: Tensor, match: Matching | None = None) -> Tensor:
        """One map (S,B,G,G) for each of the method's `scales`, before they are brought together: the mean of
        the maps of that group."""
        refined = self._counted(self.method.refine(self.raw_maps(self._views(images)[0], match)))
        return torch.stack([group.mean(0) for group in refined.chunk(len(self.method.scales))])

    def _views(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Whole images (B,3,S,S), and their tiles (B,T,3,S,S) where there are some."""
        return (images, None) if images.dim() == 4 else (images[:, 0], images[:, 1:])

    def _encode_tiles(self, tiles: Tensor) -> Features:
        """Tiles (B,T,3,S,S) -> their features, the tokens of an image's tiles one after the other
        (L,B,T*N,C)."""
        if self.once is None:
            features = self.encode(tiles.flatten(0, 1), self.method.want)
        else:
            features = self.once.of(tiles, (), lambda: tiles.flatten(0, 1), self.method.want)
        return features.each_tokens(lambda tokens: tokens.unflatten(1, tiles.shape[:2]).flatten(2, 3))

    def _tile_maps(
        self, tiles: Tensor, match: Matching | None, shown: tuple[int | None, ...] | None = None
    ) -> Tensor:
        """Tiles (B,T,3,S,S) -> final maps of each image's tiles put together (M,B,H,W); `shown`: which of the
        photographs that it was shown they are of."""
        if self.layout is None:
            raise ValueError("The detector has no layout of tiles: call lay_tiles() first.")
        chosen = (match or EVERYTHING).of_tiles()
        features = self._encode_tiles(tiles)._replace(shown=shown)
        raw = self.method.raw_tile_maps(features, self.tile_memory, chosen)
        return self.final_maps(join_tiles(raw, self.layout))

    def final_maps(self, raw: Tensor) -> Tensor:
        """Raw maps (M,B,G,G) -> refined ones on one scale, zero where patches do not count."""
        return self._counted(self.method.final(self.method.refine(raw)))

    def _score_windows(self, image: Tensor, chosen: Sequence[int] | None, match: Matching | None) -> Tensor:
        """Image (3,S,S) -> raw maps of its windows, all or the chosen ones, (M,W,w,w)."""
        match = match or self.window_match
        parts = match.over(self._encode_windows(image, match, chosen))
        raw = [self.method.raw_maps(part, self.window_memory, one) for part, one in parts]
        return self.window_grid.as_cut(torch.cat(raw, dim=1))

    def _encode_windows(
        self, image: Tensor, match: Matching, chosen: Sequence[int] | None = None
    ) -> Iterator[Features]:
        """Image (3,S,S) -> features of its windows, chunk by chunk."""
        grid, patch, want = self.window_grid, self.backbone.patch_size, self.method.want | match.want
        there, side = image.to(self.backbone.device), grid.encoded * patch
        numbers = range(len(grid)) if chosen is None else chosen
        for start in range(0, len(numbers), self.chunk):
            which = tuple(numbers[start : start + self.chunk])
            cut = partial(grid.cut, there, patch, which)
            if self.once is None:
                features = self.encode(cut(), want, side)
            else:
                features = self.once.of(image, (grid.size, *which), cut, want, side)
            yield features.at(grid.seen_in(which, there.device))

    @property
    def window_grid(self) -> WindowGrid:
        """Where its windows lie; ValueError for a detector without LFE."""
        if self.windows is None:
            raise ValueError("This detector looks through no windows.")
        return self.windows

    @property
    def chunk(self) -> int:
        """Windows encoded at once."""
        return max(1, self.at_once.patches // self.settings.encoded_side**2)

    def spare(self, images: int = 0) -> bool:
        """Takes less memory from now on: what was encoded is forgotten, or half as many windows are encoded
        at once. False where it is one window already, there are none, or they have fewer patches than so
        many whole images that are encoded at once."""
        if self.once is not None and self.once.forget():
            logger.warning("Out of memory: going on without what was encoded before.")
            return True
        now = min(self.chunk, len(self.windows)) if self.windows is not None else 0
        if now <= 1 or now * self.settings.encoded_side**2 < images * self.grid**2:
            return False
        self.at_once.patches = now // 2 * self.settings.encoded_side**2
        logger.warning("Out of memory with %d windows at once: going on with %d.", now, now // 2)
        return True


def _join_tokens(parts: Sequence[Tensor]) -> Tensor:
    """Tokens (L,b,n,C) of several batches as those of one."""
    return torch.cat(tuple(parts), dim=1)


def _inside(parts: Iterable[Features], inside: Tensor | None, count: int) -> tuple[Iterable[Features], int]:
    """The features of K images one by one, each with its row of `inside` (K,n), and how many of their `count`
    tokens that leaves."""
    if inside is None:
        return parts, count
    return (part._replace(inside=row[None]) for part, row in zip(parts, inside)), int(inside.sum())


def _window_grid(grid: int, windows: WindowConfig) -> WindowGrid | None:
    """Where the windows lie, None without LFE; ModelError for windows that do not fit."""
    if windows.winmode == "nan":
        return None
    try:
        return WindowGrid(grid, windows.win_size, windows.win_stride, windows.win_zip)
    except ValueError as error:
        raise ModelError(str(error)) from error


def _window_budget(windows: WindowConfig, grid: WindowGrid | None) -> int:
    """Windows encoded per image at most; 0: all."""
    if grid is not None and windows.window_budget == QUARTER:
        return math.ceil(QUARTER_SHARE * len(grid))
    return windows.window_budget
