"""The memory bank of normal patch tokens: how a query token finds its nearest one, and what differs between
them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.discrepancy import feature_discrepancy

ALIGNMENTS = ("mulmax", "diff2")
CENTRED_AT_ONCE = 4096  # tokens of each block
SIMILARITY_VALUES = 2**24  # of one chunk of the similarity matrix; the whole of it is never held


def nearest_index(query: Tensor, bank: Tensor, align: str = "mulmax") -> Tensor:
    """(Q,C) queries and (M,C) normal tokens -> (Q,) index of the nearest normal token.

    mulmax: argmax_j <q, m_j>. diff2: argmin_j ||q - m_j||, found as the argmax of <q, m_j> - ||m_j||^2 / 2.
    One matrix product and one maximum per chunk of SIMILARITY_VALUES. DESIGN section 2, Alignment.
    """
    if align not in ALIGNMENTS:
        raise ValueError(f"align is {align!r}; it must be one of {', '.join(ALIGNMENTS)}.")
    if bank.shape[0] == 0:
        raise ValueError("The memory bank is empty: remember the references first.")
    half_square = bank.float().square().sum(-1) / 2 if align == "diff2" else None
    found = []
    for chunk in query.split(max(1, SIMILARITY_VALUES // bank.shape[0])):
        similarity = chunk @ bank.t()
        if half_square is not None:
            similarity = similarity.float() - half_square
        found.append(similarity.max(-1).indices)
    return torch.cat(found)


class MemoryBank:
    """Normal tokens (L,M,C) of one category, kept relative to their mean.

    <q, m - mean> has the same maximum over m as <q, m>, and |(q - mean) - (m - mean)| is |q - m|; but the
    differences are small numbers, which a bf16 product can still tell apart. In float32 nothing changes but
    rounding.
    """

    def __init__(self, tokens: Tensor) -> None:
        self.centred = tokens.clone()
        self._centre_itself()

    @classmethod
    def collected(cls, parts: Iterable[Tensor], count: int) -> MemoryBank:
        """A bank of `parts` (L,n,C) that add up to `count` tokens a block, of which no second copy is ever
        held."""
        bank, filled = object.__new__(cls), 0
        for part in parts:
            if filled == 0:
                bank.centred = part.new_empty((part.shape[0], count, part.shape[2]))
            bank.centred[:, filled : filled + part.shape[1]] = part
            filled += part.shape[1]
        if filled != count:
            raise ValueError(f"The memory bank was to hold {count} tokens a block and was given {filled}.")
        bank._centre_itself()
        return bank

    def _centre_itself(self) -> None:
        """From tokens to their mean and what they differ from it, chunk by chunk in place."""
        total = self.centred.new_zeros((len(self.centred), 1, self.centred.shape[2]), dtype=torch.float32)
        for chunk in self.centred.split(CENTRED_AT_ONCE, dim=1):
            total += chunk.float().sum(dim=1, keepdim=True)
        self.mean = total / len(self)
        for chunk in self.centred.split(CENTRED_AT_ONCE, dim=1):
            chunk.copy_(chunk.float() - self.mean)

    def __len__(self) -> int:
        return self.centred.shape[1]

    def index(self, tokens: Tensor, align: str = "mulmax") -> Tensor:
        """Query tokens (L,Q,C) -> (L,Q) index of each one's nearest normal token of the same block."""
        query = self.centre(tokens) if align == "diff2" else tokens
        return torch.stack(
            [nearest_index(block, normal, align) for block, normal in zip(query, self.centred)]
        )

    def index_within(self, tokens: Tensor, picked: Tensor, align: str = "mulmax") -> Tensor:
        """Window tokens (L,W,n,C), each window matched within those of the bank's windows that it `picked`
        (W,P), a window being n tokens of the bank -> index (L,W,n).

        One window at a time: on a CPU a batched product takes twice as long, and fresh memory for each one's
        candidates too.
        """
        patches = tokens.shape[2]
        query = self.centre(tokens.flatten(1, 2)).view_as(tokens) if align == "diff2" else tokens
        candidates = self.centred.new_empty((picked.shape[1], patches, self.centred.shape[2]))
        found = torch.empty(tokens.shape[:3], dtype=torch.long, device=tokens.device)
        for block, normal in enumerate(self.centred.unflatten(1, (-1, patches))):
            for window, own in enumerate(picked):
                torch.index_select(normal, 0, own, out=candidates)
                best = nearest_index(query[block, window], candidates.flatten(0, 1), align)
                found[block, window] = own[best // patches] * patches + best % patches
        return found

    def window_keys(self, tokens: Tensor) -> Tensor:
        """What windows (L,W,n,C) look like as a whole, as unit vectors of each block side by side: (W,L*C)
        float32.

        A block's vector points from the bank's mean to the window's mean token; the product of two keys says
        how alike two windows are.
        """
        return _side_by_side(tokens.float().mean(2) - self.mean)

    def own_window_keys(self, patches: int) -> Tensor:
        """The keys (W,L*C) of the bank's own windows, which have `patches` tokens each; see window_keys."""
        at_once = max(1, CENTRED_AT_ONCE // patches) * patches
        return _side_by_side(
            torch.stack(
                [
                    torch.cat(
                        [part.float().unflatten(0, (-1, patches)).mean(1) for part in block.split(at_once)]
                    )
                    for block in self.centred
                ]
            )
        )

    def discrepancy(
        self, tokens: Tensor, align: str = "mulmax", fd: str = "abs", index: Tensor | None = None
    ) -> Tensor:
        """Query tokens (L,Q,C) -> their discrepancies (L,Q,C) from the nearest normal tokens, float32.

        `index` (L,Q) gives the matches where they are known already.
        """
        index = self.index(tokens, align) if index is None else index
        nearest = torch.stack([normal[matched] for normal, matched in zip(self.centred, index)])
        return feature_discrepancy(self.centre(tokens), nearest, fd)

    def part(self, rows: Tensor) -> MemoryBank:
        """A bank of the tokens `rows` (of each block) alone, kept relative to the same mean."""
        part = object.__new__(MemoryBank)
        part.mean, part.centred = self.mean, self.centred[:, rows]
        return part

    def centre(self, tokens: Tensor) -> Tensor:
        """Tokens (L,Q,C) relative to the bank's mean."""
        return (tokens.float() - self.mean).to(tokens.dtype)


def _side_by_side(means: Tensor) -> Tensor:
    return F.normalize(means, dim=-1).transpose(0, 1).flatten(1)
