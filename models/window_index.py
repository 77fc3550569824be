"""LFE's fast matching: each query window looks into the reference windows most like it, and there in few dimensions first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.memory import CENTRED_AT_ONCE, MemoryBank, half_squares

PICKS = 104         # reference windows that a query window is matched against
CONTENDERS = 16     # of them, those whose best token is compared in all dimensions
FEWER = 4           # times fewer dimensions tell which those are
BASIS_TOKENS = 8192  # of each block, that the directions are taken from


class WindowIndex:
    """What of a bank's windows can be found fast; a window is `patches` tokens of the bank, one window after the other.

    `keys` (W,L*C) float32: what the windows look like as a whole. `basis` (L,C,r): the directions in which the bank's tokens
    differ most, r = C / FEWER. Both are made from the bank where they are not given.
    """

    def __init__(self, bank: MemoryBank, patches: int, align: str, keys: Tensor | None = None, basis: Tensor | None = None) -> None:
        self.bank, self.patches, self.align = bank, patches, align
        self.keys = self._own_keys() if keys is None else keys
        self.basis = self._main_directions() if basis is None else basis
        self.low = torch.stack([normal @ directions for normal, directions in zip(bank.centred, self.basis)])
        self.half_square = torch.stack([half_squares(normal) for normal in bank.centred]) if align == "diff2" else None

    def part(self, bank: MemoryBank, windows: Tensor) -> "WindowIndex":
        """The index of a `bank` that holds these windows of this one's alone."""
        return WindowIndex(bank, self.patches, self.align, self.keys[windows], self.basis)

    def match(self, tokens: Tensor) -> Tensor:
        """Window tokens (L,W,n,C), n = `patches` -> (L,W,n), for each the index of a nearest token of the bank.

        A window picks the PICKS reference windows whose keys are most like its own. Of each of these a token's best match is
        found in r dimensions; the CONTENDERS best ones are compared in all of them.
        """
        picked = self._pick(tokens)
        query = self.bank.centre(tokens.flatten(1, 2)).view_as(tokens) if self.align == "diff2" else tokens
        found = torch.empty(tokens.shape[:3], dtype=torch.long, device=tokens.device)
        fresh = self.low.new_empty((picked.shape[1], *self.low.unflatten(1, (-1, self.patches)).shape[2:]))
        everything = picked.shape[1] == len(self.keys)
        for block, low in enumerate(self.low.unflatten(1, (-1, self.patches))):
            in_few = query[block] @ self.basis[block]
            for window, own in enumerate(picked):  # one by one: on a CPU a batched product takes twice as long
                candidates = low if everything else torch.index_select(low, 0, own, out=fresh)
                similarity = (in_few[window] @ candidates.flatten(0, 1).t()).unflatten(1, (len(own), -1))
                found[block, window] = self._nearest(query[block, window], similarity, own, block)
        return found

    def _pick(self, tokens: Tensor) -> Tensor:
        """(W,P) the reference windows that each window of (L,W,n,C) is matched against."""
        if PICKS >= len(self.keys):
            return torch.arange(len(self.keys), device=tokens.device).expand(tokens.shape[1], -1)
        own = side_by_side(tokens.float().mean(2) - self.bank.mean)
        return (own @ self.keys.t()).topk(PICKS, dim=-1).indices

    def _nearest(self, query: Tensor, similarity: Tensor, own: Tensor, block: int) -> Tensor:
        """Tokens (n,C) of one window, and how similar they are in few dimensions to those of the windows `own` (P,):
        (n,P,n) -> (n,) index of the nearest."""
        if self.half_square is not None:
            similarity = similarity.float() - self.half_square[block].unflatten(0, (-1, self.patches))[own]
        windows = similarity.float().amax(-1).topk(min(CONTENDERS, len(own)), dim=-1).indices
        places = similarity.gather(1, windows[..., None].expand(-1, -1, self.patches)).max(-1).indices
        index = own.take(windows) * self.patches + places       # (n,contenders)
        contenders = self.bank.centred[block].index_select(0, index.flatten()).unflatten(0, index.shape)
        exact = (contenders @ query[:, :, None])[..., 0]
        if self.half_square is not None:
            exact = exact.float() - self.half_square[block][index]
        return index.gather(1, exact.max(-1, keepdim=True).indices)[:, 0]

    def _own_keys(self) -> Tensor:
        """A block's part of a key points from the bank's mean to the window's mean token."""
        at_once = max(1, CENTRED_AT_ONCE // self.patches) * self.patches
        return side_by_side(torch.stack([torch.cat([part.float().unflatten(0, (-1, self.patches)).mean(1) for part in block.split(at_once)])
                                         for block in self.bank.centred]))

    def _main_directions(self) -> Tensor:
        """The first r principal directions of each block's tokens, (L,C,r)."""
        centred = self.bank.centred
        fewer = max(1, centred.shape[2] // FEWER)
        step = -(-len(self.bank) // BASIS_TOKENS)
        found = []
        for block in centred:
            some = block[::step].float()
            directions = torch.linalg.eigh((some.t() @ some).double().cpu()).eigenvectors   # ascending
            found.append(directions[:, -fewer:].to(centred))
        return torch.stack(found)


def side_by_side(means: Tensor) -> Tensor:
    """Windows' mean tokens less the bank's (L,W,C) -> their keys, unit vectors of each block side by side (W,L*C).

    The product of two keys says how alike two windows are.
    """
    return F.normalize(means, dim=-1).transpose(0, 1).flatten(1)
