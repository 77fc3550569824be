"""Which of a memory bank's tokens a query token may match: a strategy that a method hands on to its bank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from models.features import EMBEDDING, Features
from models.matching.discrepancy import feature_discrepancy
from models.matching.memory_bank import MemoryBank
from utils.config import MethodConfig
from utils.errors import ModelError

PICKS = 52  # reference windows that a query window is matched against by PerWindowTopK
NEAR = 2.0  # patches: a match this near to the patch's own place, in rows and in columns, is barred by Masked


class Matching:
    """Every token of the bank may be matched."""

    want: ClassVar[frozenset[str]] = frozenset()  # of the backbone, for references and queries alike

    def keys(self, bank: MemoryBank, embeddings: Tensor | None, window: int) -> Tensor | None:
        """What the bank keeps of each of its windows (W,...) so that this strategy can choose among them:
        windows of `window` tokens, whose image embeddings are `embeddings`."""
        return None

    def over(self, parts: Iterable[Features]) -> Iterator[tuple[Features, Matching]]:
        """The parts of one image's windows, each with the strategy to match it by."""
        return ((part, self) for part in parts)

    def of_tiles(self) -> Matching:
        """The same strategy for a photograph's tiles and the bank of tiles."""
        return self

    def index(self, bank: MemoryBank, query: Features, align: str) -> Tensor:
        """Query tokens (L,B,n,C) -> (L,B,n), the place in the bank of each one's nearest token that it may
        match."""
        tokens = query.tokens
        return bank.index(tokens.flatten(1, 2), align).view(tokens.shape[:3])


UNRESTRICTED = Matching()


@dataclass(frozen=True)
class SharedTopK(Matching):
    """Only the bank's windows that any window of the query picks by its image embedding (published;
    docs/design.md, section 2.10). `embeddings` (W,D): of all windows of the query image."""

    want: ClassVar[frozenset[str]] = frozenset({EMBEDDING})
    embeddings: Tensor | None = None

    def keys(self, bank: MemoryBank, embeddings: Tensor | None, window: int) -> Tensor | None:
        return embeddings

    def over(self, parts: Iterable[Features]) -> Iterator[tuple[Features, Matching]]:
        parts = list(parts)  # every window picks before the first one is matched
        match = replace(self, embeddings=torch.cat([part.wanted(EMBEDDING) for part in parts]))
        return ((part, match) for part in parts)

    def index(self, bank: MemoryBank, query: Features, align: str) -> Tensor:
        rows = self.rows(bank)
        return rows[super().index(bank.part(rows), query, align)]

    def rows(self, bank: MemoryBank) -> Tensor:
        """The bank's tokens of the windows that were picked, by their places in it."""
        if self.embeddings is None:
            raise ValueError("No window has picked yet: `over` comes before `index`.")
        picked = bank.likeness(self.embeddings).argmax(-1).unique()
        patches = torch.arange(bank.window, device=picked.device)
        return (picked[:, None] * bank.window + patches).flatten()


@dataclass(frozen=True)
class PerWindowTopK(Matching):
    """Each window within the bank's `most` windows whose mean tokens are most like its own: far fewer
    products, for a loss that docs/measurements.md shows."""

    most: int = PICKS

    def keys(self, bank: MemoryBank, embeddings: Tensor | None, window: int) -> Tensor | None:
        return bank.keys_of_own(window)

    def index(self, bank: MemoryBank, query: Features, align: str) -> Tensor:
        there = (len(bank) - len(bank.left_out)) // bank.window
        picked = bank.likeness(bank.keys_of(query.tokens)).topk(min(self.most, there), dim=-1).indices
        return bank.index_within(query.tokens, picked, align)


@dataclass(frozen=True)
class Masked(Matching):
    """No patch may match near its own place: how one reference is scored as if it were unknown.

    places (R,N,2): for each of the bank's R photographs, where its N patches lie on the unrotated reference
    (row, column, in patches). The query is a copy of the reference as it stands in the first of them.
    inside (R,N) bool: which of them the memory of whole images holds; None: all. tiles: the same for the
    patches of tiles, N then of all of a photograph's, where there are some.
    """

    places: Tensor
    tiles: Masked | None = None
    inside: Tensor | None = None

    def of_tiles(self) -> Masked:
        if self.tiles is None:
            raise ValueError("The positions of the patches of tiles are missing.")
        return self.tiles

    def index(self, bank: MemoryBank, query: Features, align: str) -> Tensor:
        tokens = query.tokens
        own = self.of_query(query).expand(tokens.shape[1], -1, -1)
        places = self.of_memory(bank.patches, bank.sizes).to(tokens.device)
        if align == "diff2":
            tokens = bank.centre(tokens.flatten(1, 2)).view_as(tokens)
        half_squares = [
            normal.float().square().sum(-1) / 2 if align == "diff2" else None for normal in bank.centred
        ]
        index = torch.empty(tokens.shape[:3], dtype=torch.long, device=tokens.device)
        for image, at in enumerate(own):
            barred = near(at, places)
            for block, (normal, half_square) in enumerate(zip(bank.centred, half_squares)):
                similarity = tokens[block, image] @ normal.t()
                if half_square is not None:  # diff2, as in memory_bank.nearest_index
                    similarity = similarity.float() - half_square
                index[block, image] = similarity.masked_fill_(barred, -torch.inf).max(-1).indices
        return index

    def of_query(self, query: Features) -> Tensor:
        """Where the query's patches lie: (n,2) or (B,n,2)."""
        places = self.places[0].to(query.tokens.device)
        return places if query.patches is None else places[query.patches]

    def of_memory(self, patches: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
        """Where a memory's M tokens lie (M,2), of photographs with so many tokens each, whose patches of
        their photographs are `patches` (M,)."""
        places = self.places.flatten(0, 1)
        if patches is None:
            return places if self.inside is None else places[self.inside.flatten().to(places.device)]
        counts = torch.tensor(sizes, device=patches.device)
        photographs = torch.arange(len(counts), device=patches.device).repeat_interleave(counts)
        return places.to(patches.device)[photographs * self.places.shape[1] + patches]


def discrepancy_of(
    query: Features, memory: MemoryBank | None, match: Matching, options: MethodConfig
) -> Tensor:
    """A query's discrepancies (L,B,n,C) from the bank's tokens that `match` finds, in the tokens' precision.

    `options.fd` "none" needs no bank. Raises ModelError where there is none otherwise.
    """
    tokens = query.tokens
    if options.fd == "none":
        return feature_discrepancy(tokens, None, "none").to(tokens.dtype)
    if memory is None:
        raise ModelError("The detector has no references yet: call fit() first.")
    index = memory.once(
        tokens, (match, options.align, memory.photographs), lambda: match.index(memory, query, options.align)
    )
    discrepancy = memory.discrepancy(tokens.flatten(1, 2), index.flatten(1), options.fd, tokens.dtype)
    return discrepancy.view_as(tokens)


def near(one: Tensor, other: Tensor) -> Tensor:
    """Places (n,2) and (m,2) -> (n,m), whether they lie no further apart than NEAR in rows and in columns."""
    rows, columns = ((one[:, None, axis] - other[None, :, axis]).abs_() <= NEAR for axis in (0, 1))
    return rows.logical_and_(columns)


def window_matching(index_memory: str) -> Matching:
    """How windows are matched: `--index-memory` 0 all, 1 those that any window picks, window own picks."""
    return {"0": UNRESTRICTED, "1": SharedTopK(), "window": PerWindowTopK(PICKS)}[index_memory]
