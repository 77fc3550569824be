"""Mutual scoring of the test images (Li et al., MuSc, ICLR 2024): no normal image is needed.

What most photographs of a set show is taken for normal: a patch is as anomalous as it is far from the patches
of the other photographs, of which those that resemble it most are asked. It sees the whole test set.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoding_cache import Encoder
from models.features import Features
from models.matching.candidates import UNRESTRICTED, Matching
from models.method import Memories, Method, Seen, mean_of_highest
from models.methods.registry import BatchFacts
from utils.errors import ModelError
from utils.memory import free_bytes
from utils.plain_tensors import taken
from utils.room import Room

SURROUNDINGS = (1, 3)  # patches: sides of the squares over which tokens are averaged
LOWEST = 0.3  # of the other photographs: those that are most like a patch decide its value
SAME = 1e-3  # mean distance of the patches in place, up to which two photographs count as one
FEWEST = 2  # photographs that can be compared
DIGEST = 20  # bytes
HELD_SHARE = 0.5  # of a device's free memory
NOT_SHOWN = "The detector has no test images yet: call take_test_images() first."
UNIT = 0.05  # that the length of a stored token may lie from 1


@dataclass(frozen=True)
class BatchMemory:
    """The test images' unit tokens (R,L,N,C), of R photographs that stand for all.

    They lie on the CPU, of which they may take gigabytes, or in a file. digests (R,DIGEST) uint8: by which
    each one is known again. found: the maps (L,N) of those that were compared already, by their numbers.
    held: the tokens on another device. tiles: the N tokens of each are those of so many square parts, one
    after the other.
    """

    tokens: Tensor
    digests: Tensor = field(default_factory=lambda: torch.zeros(0, DIGEST, dtype=torch.uint8))
    found: dict[int, Tensor] = field(default_factory=dict, compare=False)
    held: dict[torch.device, Tensor] = field(default_factory=dict, compare=False)
    tiles: int = 1

    def tokens_for(self, query: Tensor) -> Tensor:
        """The tokens as what is matched on the query's device: there already, where HELD_SHARE of its free
        memory holds them all."""
        device = query.device
        if device.type == "cpu" or device in self.held:
            return self.held.get(device, self.tokens)
        if self.tokens.numel() * query.element_size() > HELD_SHARE * free_bytes(device):
            return self.tokens
        self.held[device] = self.tokens.to(query)
        return self.held[device]

    @cached_property
    def numbers(self) -> dict[bytes, int]:
        """Digest -> which photograph it is."""
        return {bytes(digest.tolist()): number for number, digest in enumerate(self.digests)}

    def of(self, images: Tensor) -> tuple[int | None, ...]:
        """Which of its photographs images (B,3,S,S) uint8 are."""
        return tuple(self.numbers.get(digest_of(image)) for image in images)

    def without(self, reference: int, references: int) -> BatchMemory:
        """As it is: what is held out are references, and none is in it."""
        return self

    def state(self) -> dict[str, Tensor]:
        return {"tokens": self.tokens, "digests": self.digests, "tiles": torch.tensor([self.tiles])}


def memories_of(seen: Iterable[Seen], count: int, room: Room) -> tuple[BatchMemory, BatchMemory | None]:
    """What is kept in `room` of `count` test images, and of their tiles, of which all have as many.
    ValueError where not all came."""
    digests: list[bytes] = []
    whole = tiles = None
    for images, tokens, parts in seen:
        first = len(digests)
        digests += [digest_of(image) for image in images]
        whole = _filled(whole, tokens, first, count, room)
        for part in parts:
            tiles = _filled(tiles, part, first, count, room)
    if whole is None or len(digests) != count:
        raise ValueError(f"{count} images were announced, and {len(digests)} came.")
    known = torch.tensor([list(digest) for digest in digests], dtype=torch.uint8)
    if tiles is None:
        return BatchMemory(whole, known), None
    tiled = BatchMemory(tiles, known.clone(), tiles=tiles.shape[2] // whole.shape[2])  # a file holds each one
    return BatchMemory(whole, known), tiled


def _filled(held: Tensor | None, tokens: Tensor, first: int, count: int, room: Room) -> Tensor:
    """The tokens (R,L,N,C) of `count` images, with those (L,B,N,C) of the images from number `first` on."""
    blocks, images, patches, width = tokens.shape
    held = room((count, blocks, patches, width), tokens.dtype) if held is None else held
    held[first : first + images] = tokens.transpose(0, 1)
    return held


def with_kept(
    encode: Encoder, images: Tensor, memory: BatchMemory, shown: Sequence[int | None], like: Tensor
) -> Features:
    """The tokens of images (B,3,S,S), those that the memory has as it keeps them; `shown`: which of its
    photographs they are."""
    new = [place for place, number in enumerate(shown) if number is None]
    encoded = iter(encode(images[new]).tokens.unbind(1) if new else ())
    known = memory.tokens_for(like)
    tokens = [next(encoded) if number is None else known[number].to(like) for number in shown]
    return Features(torch.stack(tokens, 1), shown=tuple(shown))


def digest_of(image: Tensor) -> bytes:
    """What tells an image (3,S,S) uint8 from others."""
    return hashlib.blake2b(image.cpu().contiguous().numpy().data, digest_size=DIGEST).digest()


def averaged(tokens: Tensor, side: int, tiles: int = 1) -> Tensor:
    """Unit tokens (B,N,C) of square photographs, or of `tiles` square parts of each -> each patch's mean over
    the `side` x `side` patches about it that there are, of unit length again."""
    if side == 1:
        return tokens
    if tiles > 1:
        return averaged(tokens.unflatten(1, (tiles, -1)).flatten(0, 1), side).view(tokens.shape)
    grid = math.isqrt(tokens.shape[1])
    maps = tokens.float().transpose(1, 2).unflatten(2, (grid, grid))
    means = F.avg_pool2d(
        maps, side, stride=1, padding=side // 2
    )  # how many there are changes the length alone
    return F.normalize(means.flatten(2).transpose(1, 2).contiguous(), dim=-1).to(tokens.dtype)


def mutual_scores(tokens: Tensor, memory: BatchMemory) -> Tensor:
    """Unit tokens (L,B,N,C) of photographs -> (L,B,N): half the cosine distance of each patch to the nearest
    one of each other photograph, the mean of the LOWEST share of them, and of the SURROUNDINGS.

    A photograph of the memory that is the same one (`SAME`) is no other. ModelError where there is none.
    """
    known, tiles = memory.tokens_for(tokens), memory.tiles
    if known.shape[2:] != tokens.shape[2:]:
        raise ModelError("The test images were encoded in another size than this one has.")
    blocks, images, patches, _ = tokens.shape
    own = [torch.stack([averaged(block, side, tiles) for block in tokens]) for side in SURROUNDINGS]
    distances = torch.empty((len(own), len(known), blocks, images, patches), device=tokens.device)
    same = torch.empty((len(known), images), dtype=torch.bool, device=tokens.device)
    for number, photograph in enumerate(known):
        other = photograph.to(tokens)
        same[number] = _is_same(tokens[0], other[0])
        for side, queries, found in zip(SURROUNDINGS, own, distances):
            found[number] = _nearest_distances(queries, averaged(other, side, tiles))
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
    each to its nearest. A CPU takes the images of a block one by one, a GPU all at once."""

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
    asked = ((~same).sum(0) * LOWEST).ceil().long()
    counted = torch.arange(len(distances), device=distances.device)[:, None] < asked
    return ordered.masked_fill(~counted[..., None], 0).sum(0) / asked[:, None]


def _is_same(own: Tensor, photograph: Tensor) -> Tensor:
    """Tokens (B,N,C) and (N,C) of one block -> (B,): which are of the same photograph but for rounding."""
    return (own.float() - photograph.float()).square().sum(-1).mean(-1) / 4 <= SAME


class Batch(BatchFacts, Method[BatchMemory]):
    """L maps: for each block the distance of each patch to the other test images."""

    hottest = 0.5

    @property
    def needs_references(self) -> bool:
        return False

    def take_test_images(
        self, seen: Iterable[Seen], count: int, room: Room, known: Memories, like: Tensor
    ) -> Memories:
        whole, tiles = memories_of(seen, count, room)
        return Memories(whole, tiles=tiles)

    def features(
        self, encode: Encoder, images: Tensor, originals: Tensor, memory: BatchMemory | None, like: Tensor
    ) -> Features:
        """The kept tokens of images that it was shown."""
        if memory is None:
            return encode(images)
        shown = memory.of(originals)
        if all(number is None for number in shown):
            return encode(images)._replace(shown=shown)
        return with_kept(encode, images, memory, shown, like)

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> BatchMemory:
        tokens = taken(state, "tokens", None, self.blocks, None, self.width)
        if len(tokens) < FEWEST:
            raise ValueError(f"tokens is of {len(tokens)} photograph, where {FEWEST} are compared")
        lengths = tokens[:, :, 0].float().norm(dim=-1)
        if not bool(((lengths - 1).abs() < UNIT).all()):
            raise ValueError("its tokens are not of unit length")
        held = tokens.to("cpu", tokens.dtype if tokens.dtype.itemsize == 2 else dtype)
        digests, tiles = state["digests"], state["tiles"]
        if digests.dtype != torch.uint8 or tuple(digests.shape) != (len(held), DIGEST):
            raise ValueError("digests are not those of its photographs")
        if tiles.shape != (1,) or tiles.dtype != torch.int64 or not 1 <= int(tiles) <= held.shape[2]:
            raise ValueError("tiles is no number of them")
        if math.isqrt(held.shape[2] // int(tiles)) ** 2 * int(tiles) != held.shape[2]:
            raise ValueError(f"its {held.shape[2]} tokens are not those of {int(tiles)} square tiles")
        return BatchMemory(held, digests.cpu(), tiles=int(tiles))

    def raw_maps(self, query: Features, memory: BatchMemory | None, match: Matching = UNRESTRICTED) -> Tensor:
        """Those of known photographs are computed once."""
        if memory is None:
            raise ModelError(NOT_SHOWN)
        shown = query.shown or (None,) * query.tokens.shape[1]
        new = [place for place, number in enumerate(shown) if number not in memory.found]
        maps: dict[int, Tensor] = {}
        if new:
            images = query.tokens.unbind(1)  # a list of places as an index would cross to a GPU
            asked = torch.stack([images[place] for place in new], 1)
            maps = dict(zip(new, mutual_scores(asked, memory).unbind(1)))
        for place, number in enumerate(shown):
            if number is not None and place in maps:
                memory.found[number] = maps[place].clone()
            elif number is not None:
                maps[place] = memory.found[number]
        return torch.stack([maps[place] for place in range(len(shown))], 1)

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of maps (L,B,G,G), and of its highest patches (B,)."""
        shown = maps.mean(0)
        return shown, mean_of_highest(shown)
