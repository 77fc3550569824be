"""Mutual scoring of the test images (Li et al., MuSc, ICLR 2024): no reference is needed.

A patch is scored by its distance to the patches of the other test images, of which the most similar ones
count. Most test images must be normal. The method is transductive: it sees the whole test set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbone import NOTHING_MORE
from models.encoder import Encoder
from models.features import Features
from models.matching.candidates import UNRESTRICTED, Matching
from models.method import Memories, Method, Seen, mean_of_highest
from models.methods.registry import BatchFacts
from utils.errors import ModelError
from utils.memory import free_bytes, tensor_on_disk
from utils.views import DIGEST, Views

SURROUNDINGS = (1, 3)  # patches: sides of the squares over which tokens are averaged
LOWEST = 0.3  # of the distances to the other photographs: their mean is a patch's value
SAME = 1e-3  # largest mean distance, patch by patch, of two copies of one photograph
FEWEST = 2  # photographs that can be compared
CACHED_SHARE = 0.5  # of a device's free memory
NO_TEST_IMAGES = "The detector has no test images yet: call take_test_images() first."


@dataclass(frozen=True)
class BatchMemory:
    """The unit tokens (R,L,N,C) of a sample of R test images, on the CPU, in a file
    (utils/memory.py): they may take gigabytes.

    digests (R,DIGEST) uint8: identify the images. maps: cached maps (L,N) of images that were compared, by
    their index. cached: the tokens on another device. tiles: the N tokens of each image are those of so many
    square tiles, one after the other.
    """

    tokens: Tensor
    digests: Tensor = field(default_factory=lambda: torch.zeros(0, DIGEST, dtype=torch.uint8))
    maps: dict[int, Tensor] = field(default_factory=dict, compare=False)
    cached: dict[torch.device, Tensor] = field(default_factory=dict, compare=False)
    tiles: int = 1

    def tokens_for(self, device: torch.device) -> Tensor:
        """The tokens, on the device where they fit into CACHED_SHARE of its free memory."""
        if device.type == "cpu" or device in self.cached:
            return self.cached.get(device, self.tokens)
        if self.tokens.nbytes > CACHED_SHARE * free_bytes(device):
            return self.tokens
        self.cached[device] = self.tokens.to(device)
        return self.cached[device]

    @cached_property
    def numbers(self) -> dict[bytes, int]:
        """Digest -> index of its image."""
        return {bytes(digest.tolist()): number for number, digest in enumerate(self.digests)}

    def of(self, views: Views) -> tuple[int | None, ...]:
        """The indices of images among its own; None for others."""
        return tuple(map(self.numbers.get, views.digests()))

    def maps_of(self, query: Features) -> Tensor:
        """The query's maps (L,B,n); those of its own images are computed once."""
        stored_as = query.stored_as or (None,) * query.tokens.shape[1]
        new = [place for place, number in enumerate(stored_as) if number not in self.maps]
        maps: dict[int, Tensor] = {}
        if new:
            images = query.tokens.unbind(1)  # an index list would be copied to a GPU
            tokens = torch.stack([images[place] for place in new], 1)
            maps = dict(zip(new, mutual_scores(tokens, self).unbind(1)))
        for place, number in enumerate(stored_as):
            if number is not None and place in maps:
                self.maps[number] = maps[place].clone()
            elif number is not None:
                maps[place] = self.maps[number]
        return torch.stack([maps[place] for place in range(len(stored_as))], 1)

    def without(self, reference: int, references: int) -> BatchMemory:
        """Itself: it holds no references."""
        return self

    def __deepcopy__(self, _: object) -> BatchMemory:
        """Itself: it does not change, and may take gigabytes."""
        return self

    @classmethod
    def restored(cls, state: Mapping[str, Tensor], dtype: torch.dtype) -> BatchMemory:
        """The memory whose `state` this is, on the CPU; ValueError for tokens that are not those of tiles."""
        tokens, tiles = state["tokens"].to("cpu", dtype), int(state["tiles"])
        if tokens.shape[2] % tiles:
            raise ValueError(f"{tokens.shape[2]} tokens of an image are not those of {tiles} tiles")
        return cls(tokens, state["digests"].cpu(), tiles=tiles)

    def state(self) -> dict[str, Tensor]:
        return {"tokens": self.tokens, "digests": self.digests, "tiles": torch.tensor([self.tiles])}


def memories_of(seen: Iterable[Seen], count: int) -> tuple[BatchMemory, BatchMemory | None]:
    """The memories of `count` test images and of their tiles, which are the same number for all.
    ValueError for another number of images."""
    digests: list[bytes] = []
    whole = tiles = None
    for of_images, tokens, parts in seen:
        first = len(digests)
        digests += of_images
        whole = _filled(whole, tokens, first, count)
        for part in parts:
            tiles = _filled(tiles, part, first, count)
    if whole is None or len(digests) != count:
        raise ValueError(f"{count} images were announced, and {len(digests)} came.")
    rows = torch.tensor([list(digest) for digest in digests], dtype=torch.uint8)
    if tiles is None:
        return BatchMemory(whole, rows), None
    tiled = BatchMemory(tiles, rows.clone(), tiles=tiles.shape[2] // whole.shape[2])  # a file holds each one
    return BatchMemory(whole, rows), tiled


def _filled(stored: Tensor | None, tokens: Tensor, first: int, count: int) -> Tensor:
    """The tokens (R,L,N,C) of `count` images, with those (L,B,N,C) of the images from index `first` on."""
    blocks, images, patches, width = tokens.shape
    if stored is None:
        shape = count, blocks, patches, width
        stored = tensor_on_disk(shape, tokens.dtype, "The tokens of the test images")
    stored[first : first + images] = tokens.transpose(0, 1)
    return stored


def stored_or_encoded(
    encode: Encoder, views: Views, memory: BatchMemory | None, want: frozenset[str] = NOTHING_MORE
) -> Features:
    """As Method.features: if nothing is wanted besides tokens, those of the memory's images are the stored
    ones; others are encoded."""
    if memory is None:
        return encode(views, want)
    stored_as = memory.of(views)
    new = [place for place, number in enumerate(stored_as) if number is None]
    if want or len(new) == len(stored_as):
        return encode(views, want)._replace(stored_as=stored_as)
    encoded = iter(encode(views[new]).tokens.unbind(1) if new else ())
    device = views.whole.device
    stored = memory.tokens_for(device)
    tokens = [next(encoded) if number is None else stored[number].to(device) for number in stored_as]
    return Features(torch.stack(tokens, 1), stored_as=stored_as)


def averaged(tokens: Tensor, side: int, tiles: int = 1) -> Tensor:
    """Unit tokens (B,N,C) of square photographs, or of `tiles` square tiles of each -> each patch's mean over
    the `side` x `side` patches around it, without those outside, of unit length again."""
    if side == 1:
        return tokens
    if tiles > 1:
        return averaged(tokens.unflatten(1, (tiles, -1)).flatten(0, 1), side).view(tokens.shape)
    grid = math.isqrt(tokens.shape[1])
    maps = tokens.float().transpose(1, 2).unflatten(2, (grid, grid))
    means = F.avg_pool2d(maps, side, stride=1, padding=side // 2)  # zeros outside only change the length
    return F.normalize(means.flatten(2).transpose(1, 2).contiguous(), dim=-1).to(tokens.dtype)


def mutual_scores(tokens: Tensor, memory: BatchMemory) -> Tensor:
    """Unit tokens (L,B,N,C) of photographs -> (L,B,N): half the cosine distance of each patch to the nearest
    one of each other photograph, the mean of the LOWEST share of them, and over the SURROUNDINGS.

    A copy of the photograph itself (`SAME`) in the memory is skipped. ModelError where no other is left.
    """
    stored, tiles = memory.tokens_for(tokens.device), memory.tiles
    if stored.shape[2:] != tokens.shape[2:]:
        raise ModelError("The test images were encoded in another size than this one has.")
    blocks, images, patches, _ = tokens.shape
    own = [torch.stack([averaged(block, side, tiles) for block in tokens]) for side in SURROUNDINGS]
    distances = torch.empty((len(own), len(stored), blocks, images, patches), device=tokens.device)
    same = torch.empty((len(stored), images), dtype=torch.bool, device=tokens.device)
    for number, photograph in enumerate(stored):
        other = photograph.to(tokens)
        same[number] = _is_same(tokens[0], other[0])
        for side, queries, of_side in zip(SURROUNDINGS, own, distances):
            of_side[number] = _nearest_distances(queries, averaged(other, side, tiles))
    if same.all(0).any():
        raise ModelError(
            f"Photographs are compared with each other, and there are no {FEWEST} different ones."
        )
    total = torch.zeros(tokens.shape[:3], device=tokens.device)
    for of_side in distances:
        for block in range(blocks):
            total[block] += _mean_of_lowest(of_side[:, block], same)
    return total / len(SURROUNDINGS)


def _nearest_distances(queries: Tensor, other: Tensor) -> Tensor:
    """Averaged tokens (L,B,N,C) against another photograph's (L,N,C) -> (L,B,N), half the cosine distance of
    each to its nearest. A CPU computes the images of a layer one by one, a GPU all at once."""

    def highest(block: Tensor, normal: Tensor) -> Tensor:
        if block.device.type == "cpu":
            return torch.stack([(patches @ normal.T).amax(-1) for patches in block])
        return (block.flatten(0, 1) @ normal.T).amax(-1).view(block.shape[:2])

    nearest = torch.stack([highest(*pair) for pair in zip(queries, other)])
    return ((1 - nearest.float()) / 2).clamp(0, 1)


def _mean_of_lowest(distances: Tensor, same: Tensor) -> Tensor:
    """Distances (R,B,N) from R photographs, of which some are the `same` (R,B) -> (B,N), the mean of the
    LOWEST share of those from the others."""
    ordered = distances.masked_fill(same[..., None], math.inf).sort(0).values
    count = ((~same).sum(0) * LOWEST).ceil().long()
    lowest = torch.arange(len(distances), device=distances.device)[:, None] < count
    return ordered.masked_fill(~lowest[..., None], 0).sum(0) / count[:, None]


def _is_same(own: Tensor, photograph: Tensor) -> Tensor:
    """Tokens (B,N,C) and (N,C) of one layer -> (B,): whether they are of the same photograph, up to
    rounding."""
    return (own.float() - photograph.float()).square().sum(-1).mean(-1) / 4 <= SAME


def summary_of(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (B,G,G) of maps (L,B,G,G), and of its highest patches (B,)."""
    mean = maps.mean(0)
    return mean, mean_of_highest(mean)


class Batch(BatchFacts, Method[BatchMemory]):
    """L maps: for each feature layer the distance of each patch to the other test images."""

    hottest = 0.5
    takes_test_images = True

    def take_test_images(self, seen: Iterable[Seen], count: int, device: torch.device) -> Memories:
        whole, tiles = memories_of(seen, count)
        return Memories(whole, tiles)

    def features(self, encode: Encoder, views: Views, memory: BatchMemory | None) -> Features:
        return stored_or_encoded(encode, views, memory)

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> BatchMemory:
        return BatchMemory.restored(state, dtype)

    def raw_maps(self, query: Features, memory: BatchMemory | None, match: Matching = UNRESTRICTED) -> Tensor:
        if memory is None:
            raise ModelError(NO_TEST_IMAGES)
        return memory.maps_of(query)

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return summary_of(maps)
