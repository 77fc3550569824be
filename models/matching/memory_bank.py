"""The memory bank of normal patch tokens: how a query token finds its nearest one, and what differs between
them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features import Features, Sizes
from models.matching.discrepancy import in_rows, of_difference
from utils.config import ALIGNMENTS

CENTRED_AT_ONCE = 4096  # tokens of each block
SIMILARITY_VALUES = 2**24  # of one chunk of the similarity matrix; the whole of it is never held
ON_A_GPU = 18 * 2**20  # the same there: 36 MiB in half precision, which a GPU's cache of 40 MB holds
ALIGNED = 8  # values of two bytes, which a GPU reads and writes at once


def nearest_index(query: Tensor, bank: Tensor, align: str = "mulmax") -> Tensor:
    """(Q,C) queries and (M,C) normal tokens -> (Q,) index of the nearest normal token.

    mulmax: argmax_j <q, m_j>. diff2: argmin_j ||q - m_j||, found as the argmax of <q, m_j> - ||m_j||^2 / 2.
    One matrix product and one maximum per chunk of SIMILARITY_VALUES. docs/design.md, section 2.3.
    """
    return nearest_of(query, bank, align)[1]


def nearest_of(query: Tensor, bank: Tensor, align: str = "mulmax") -> tuple[Tensor, Tensor]:
    """As nearest_index; before the index the value (Q,) whose maximum it is."""
    if align not in ALIGNMENTS:
        raise ValueError(f"align is {align!r}; it must be one of {', '.join(ALIGNMENTS)}.")
    if bank.shape[0] == 0:
        raise ValueError("The memory bank is empty: fit the references first.")
    half_square = bank.float().square().sum(-1) / 2 if align == "diff2" else None
    parts = []
    most = ON_A_GPU if query.is_cuda else SIMILARITY_VALUES
    count, normal = len(bank), aligned(bank) if query.is_cuda and query.itemsize == 2 else bank
    for chunk in query.split(max(1, most // count)):
        similarity = (chunk @ normal.t())[:, :count]
        if half_square is not None:
            similarity = similarity.float() - half_square
        parts.append(similarity.max(-1))
    values, indices = zip(*parts)
    return torch.cat(values), torch.cat(indices)


def aligned(bank: Tensor) -> Tensor:
    """Tokens (M,C) with rows of zeros up to a multiple of ALIGNED: each row of a product with them begins
    where a GPU's fast kernels need it to. Whoever multiplies leaves their columns out again."""
    return F.pad(bank, (0, 0, 0, -len(bank) % ALIGNED))


def _nearest_within(query: Tensor, windows: Tensor, picked: Tensor, align: str) -> Tensor:
    """Windows (W,n,C) of a query and normal ones (V,n,C) -> (W,n), the index among all V * n of each token's
    nearest in those windows that its own picked (W,P)."""
    patches = windows.shape[1]
    candidates = windows[picked].flatten(1, 2)
    similarity = query @ candidates.transpose(1, 2)
    if align == "diff2":
        similarity = similarity.float() - candidates.float().square().sum(-1)[:, None] / 2
    best = similarity.max(-1).indices
    return picked.gather(1, best // patches) * patches + best % patches


# Of a bank, the image embeddings of its windows and how many tokens each has: what the windows are picked by.
Keys = Callable[["MemoryBank", Tensor | None, int], Tensor | None]


@dataclass(frozen=True)
class MemoryBank:
    """Normal tokens of one category: the mean (L,1,C) of the first photograph's, and what all of them differ
    from it, `centred` (L,M,C).

    <q, m - mean> has the same maximum over m as <q, m>, and |(q - mean) - (m - mean)| is |q - m|; but the
    differences are small numbers, which a bf16 product can still tell apart. In float32 nothing changes but
    rounding. That it is the first photograph's mean, and that each reference is matched by itself, makes
    banks that begin with the same ones agree to the last bit (`beginning`). keys (W,...): of a bank of
    windows, what a strategy of models/matching/candidates.py picks them by. patches (M,): which patch of its
    photograph each token is; None: all in order. sizes: how many tokens each photograph has, in order. So
    many consecutive ones, a reference's `copies`, are matched in one product. left_out: tokens that nothing
    is matched with (`without`). matched: what was matched for several detectors whose banks begin alike;
    whoever sets it empties it.
    """

    mean: Tensor
    centred: Tensor
    sizes: tuple[int, ...]
    keys: Tensor | None = None
    patches: Tensor | None = None
    copies: int = 1
    left_out: range = range(0)
    matched: dict[tuple, tuple[Any, Tensor]] | None = field(default=None, compare=False)

    @classmethod
    def collected(cls, parts: Iterable[Features], sizes: Sizes, keys: Keys | None = None) -> MemoryBank:
        """A bank of the parts' tokens, of which no second copy is ever held; `keys`: what its windows are
        picked by."""
        each = tuple(size for own in sizes for size in own)
        centred, filled, window = None, 0, 1
        embeddings, patches = [], []
        for part in parts:
            tokens, window = part.counted_tokens(), part.tokens.shape[2]
            if centred is None:
                centred = tokens.new_empty((tokens.shape[0], sum(each), tokens.shape[2]))
            centred[:, filled : filled + tokens.shape[1]] = tokens
            filled += tokens.shape[1]
            embeddings += [] if part.embedding is None else [part.embedding]
            patches += [] if (own := part.counted_patches()) is None else [own]
        if centred is None or filled != sum(each):
            raise ValueError(f"The bank was to hold {sum(each)} tokens per block and was given {filled}.")
        places = torch.cat(patches) if patches else None
        bank = cls(_centre_in_place(centred, each[0]), centred, each, patches=places, copies=len(sizes[0]))
        if keys is None:
            return bank
        return replace(bank, keys=keys(bank, torch.cat(embeddings) if embeddings else None, window))

    @classmethod
    def restored(cls, state: Mapping[str, Tensor], dtype: torch.dtype) -> MemoryBank:
        """The bank whose `state` this is, to the last bit where it was kept in `dtype`."""
        mean, centred, sizes = state["mean"].float(), state["centred"].to(dtype), state["sizes"]
        return cls(mean, centred, tuple(sizes.flatten().tolist()), state.get("keys"), copies=sizes.shape[1])

    def state(self) -> dict[str, Tensor]:
        """mean, centred, sizes and, where there are some, keys."""
        state = {
            "mean": self.mean,
            "centred": self.centred,
            "sizes": torch.tensor(self.sizes).view(-1, self.copies),
        }
        return state if self.keys is None else {**state, "keys": self.keys}

    def without(self, reference: int, references: int) -> MemoryBank:
        """The bank as if one of its `references`, each with its copies in order, had never been seen. Both
        share their tokens: nothing is copied."""
        copies = self.photographs // references
        start, end = (sum(self.sizes[: number * copies]) for number in (reference, reference + 1))
        return replace(self, left_out=range(start, end), matched=None)

    def rows(self, photographs: int = 1) -> list[range]:
        """Which tokens are those of each so many consecutive photographs, without those that are left out and
        without photographs that have none."""
        ends = [0, *accumulate(self.sizes)][::photographs]
        sides = (range(self.left_out.start), range(self.left_out.stop, len(self)))
        parts = [
            range(max(first, side.start), min(end, side.stop))
            for first, end in pairwise(ends)
            for side in sides
        ]
        return [part for part in parts if part]

    def beginning(self, photographs: int) -> MemoryBank:
        """The bank of its first photographs alone, to the last bit; it shares their tokens, and what is
        `matched`."""
        rows = sum(self.sizes[:photographs])
        keys = None if self.keys is None else self.keys[: rows // self.window]
        patches = None if self.patches is None else self.patches[:rows]
        sizes = self.sizes[:photographs]
        return replace(self, centred=self.centred[:, :rows], sizes=sizes, keys=keys, patches=patches)

    @property
    def photographs(self) -> int:
        return len(self.sizes)

    @property
    def window(self) -> int:
        """Tokens of each of the windows that have keys."""
        return len(self) // len(self.window_keys)

    @property
    def window_keys(self) -> Tensor:
        """The keys (W,...) of its windows; ValueError for a bank that has none."""
        if self.keys is None:
            raise ValueError("The memory bank holds no windows that could be picked.")
        return self.keys

    def likeness(self, keys: Tensor) -> Tensor:
        """How alike windows with these keys (Q,...) and each of its own are (Q,W); -inf for those that are
        left out."""
        likeness = keys @ self.window_keys.to(keys.dtype).t()
        likeness[:, self.left_out.start // self.window : self.left_out.stop // self.window].fill_(-torch.inf)
        return likeness

    def __len__(self) -> int:
        return self.centred.shape[1]

    def index(self, tokens: Tensor, align: str = "mulmax") -> Tensor:
        """Query tokens (L,Q,C) -> (L,Q) index of each one's nearest normal token of the same block: the
        running maximum over references, the first of equal ones."""
        query = self.centre(tokens) if align == "diff2" else tokens
        first, *others = self.rows(self.copies) or [range(0)]
        likeness, index = self._among(first, tokens, query, align)
        for rows in others:
            other, place = self._among(rows, tokens, query, align)
            better = (other > likeness) | other.isnan()  # what is no number wins, and is refused later
            likeness = torch.where(better, other, likeness)
            index = torch.where(better, place, index)
        return index

    def _among(self, rows: range, tokens: Tensor, query: Tensor, align: str) -> tuple[Tensor, Tensor]:
        """How alike each query token (L,Q) and the nearest one of the `rows` are, and the place of that."""

        def work() -> tuple[Tensor, Tensor]:
            own = self.centred[:, rows.start : rows.stop]
            pairs = [nearest_of(block, normal, align) for block, normal in zip(query, own)]
            likeness, place = (torch.stack(part) for part in zip(*pairs))
            return likeness, place + rows.start

        return self.once(tokens, (rows, align), work)

    def once(self, tokens: Tensor, about: tuple, work: Callable[[], Any]) -> Any:
        """What `work` gives; while `matched` is there it works once for each kind `about` of the same
        tokens."""
        if self.matched is None:
            return work()
        key = (tokens.data_ptr(), tokens.shape, tokens.stride(), *about)
        if key not in self.matched:
            self.matched[key] = work(), tokens  # as long as they are held, no others have their place
        return self.matched[key][0]

    def index_within(self, tokens: Tensor, picked: Tensor, align: str = "mulmax") -> Tensor:
        """Window tokens (L,W,n,C), each window matched within those of the bank's windows that it `picked`
        (W,P), a window being n tokens of the bank -> index (L,W,n); of equally near ones that of the window
        that it picked first.

        On a CPU one window at a time: a batched product takes twice as long there, and fresh memory for each
        one's candidates too. On a GPU as many as make a chunk of the similarity matrix.
        """
        patches = tokens.shape[2]
        query = self.centre(tokens.flatten(1, 2)).view_as(tokens) if align == "diff2" else tokens
        windows = self.centred.unflatten(1, (-1, patches))
        index = torch.empty(tokens.shape[:3], dtype=torch.long, device=tokens.device)
        if tokens.is_cuda:
            step = max(1, ON_A_GPU // (patches * picked.shape[1] * patches))
            for block, normal in enumerate(windows):
                parts = zip(query[block].split(step), picked.split(step), index[block].split(step))
                for own, chosen, place in parts:
                    place.copy_(_nearest_within(own, normal, chosen, align))
            return index
        candidates = self.centred.new_empty((picked.shape[1], patches, self.centred.shape[2]))
        for block, normal in enumerate(windows):
            for window, own in enumerate(picked):
                torch.index_select(normal, 0, own, out=candidates)
                best = nearest_index(query[block, window], candidates.flatten(0, 1), align)
                index[block, window] = own[best // patches] * patches + best % patches
        return index

    def keys_of(self, tokens: Tensor) -> Tensor:
        """What windows (L,W,n,C) look like as a whole, as unit vectors of each block side by side: (W,L*C)
        float32.

        A block's vector points from the bank's `mean` to the window's mean token; the product of two keys
        says how alike two windows are.
        """
        return self.once(tokens, ("keys",), lambda: _side_by_side(tokens.float().mean(2) - self.mean))

    def keys_of_own(self, patches: int) -> Tensor:
        """The keys (W,L*C) of the bank's own windows, which have `patches` tokens each; see keys_of."""
        at_once = max(1, CENTRED_AT_ONCE // patches) * patches

        def means(block: Tensor) -> Tensor:
            parts = [part for own in block.split(list(self.sizes)) for part in own.split(at_once)]
            return torch.cat([part.float().unflatten(0, (-1, patches)).mean(1) for part in parts])

        return _side_by_side(torch.stack([means(block) for block in self.centred]))

    def discrepancy(
        self, tokens: Tensor, index: Tensor, fd: str = "abs", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Query tokens (L,Q,C) -> their discrepancies (L,Q,C) from the bank's tokens at `index` (L,Q), in
        `dtype`. A few rows at a time, each step of which a processor keeps in its cache."""
        blocks = zip(self.centred, self.mean, tokens, index)
        if torch.compiler.is_compiling():  # a graph would copy all blocks for each one that is written
            return torch.stack([_away(query, normal[at], mean, fd) for normal, mean, query, at in blocks]).to(
                dtype
            )
        discrepancies = torch.empty_like(tokens, dtype=dtype)
        for (normal, mean, *parts), block in zip(blocks, discrepancies):
            for query, matched, place in zip(*map(in_rows, (*parts, block))):
                place.copy_(_away(query, normal.index_select(0, matched), mean, fd))
        return discrepancies

    def part(self, rows: Tensor) -> MemoryBank:
        """A bank of the tokens `rows` (of each block) alone, kept relative to the same mean; it has no
        keys."""
        patches = None if self.patches is None else self.patches[rows]
        return MemoryBank(self.mean, self.centred[:, rows], (len(rows),), patches=patches)

    def centre(self, tokens: Tensor) -> Tensor:
        """Tokens (L,Q,C) relative to the bank's mean."""
        return (tokens.float() - self.mean).to(tokens.dtype)


def _away(query: Tensor, nearest: Tensor, mean: Tensor, fd: str) -> Tensor:
    """The discrepancies (n,C) float32 of tokens (n,C) from their nearest ones, which are relative to the
    `mean` (1,C)."""
    difference = (query.float() - mean).to(query.dtype).float()
    difference -= nearest.float()
    return of_difference(query, difference, fd)


def _centre_in_place(tokens: Tensor, first: int) -> Tensor:
    """Subtracts the mean (L,1,C) of the `first` tokens, those of the first photograph, which it returns, from
    tokens (L,M,C), chunk by chunk in place."""
    start = tokens[:, :first]
    total = tokens.new_zeros((len(tokens), 1, tokens.shape[2]), dtype=torch.float32)
    for chunk in start.split(CENTRED_AT_ONCE, dim=1):
        total += chunk.float().sum(dim=1, keepdim=True)
    mean = total / first
    for chunk in tokens.split(CENTRED_AT_ONCE, dim=1):
        chunk.copy_(chunk.float() - mean)
    return mean


def _side_by_side(means: Tensor) -> Tensor:
    return F.normalize(means, dim=-1).transpose(0, 1).flatten(1)
