"""The memory bank of normal patch tokens, and how a query token finds its nearest one."""

from __future__ import annotations

import torch
from torch import Tensor

ALIGNMENTS = ("mulmax", "diff2")
SIMILARITY_BYTES = 64 * 2**20  # one chunk of the similarity matrix; the whole of it is never held


def nearest_index(query: Tensor, bank: Tensor, align: str = "mulmax") -> Tensor:
    """(Q,C) queries and (M,C) normal tokens -> (Q,) index of the nearest normal token.

    mulmax: argmax_j <q, m_j>. diff2: argmin_j ||q - m_j||, found as the argmax of <q, m_j> - ||m_j||^2 / 2.
    Works through the similarity matrix in chunks of SIMILARITY_BYTES. DESIGN section 2, Alignment.
    """
    if align not in ALIGNMENTS:
        raise ValueError(f"align is {align!r}; it must be one of {', '.join(ALIGNMENTS)}.")
    if bank.shape[0] == 0:
        raise ValueError("The memory bank is empty: remember the references first.")
    half_square = bank.float().square().sum(-1) / 2 if align == "diff2" else None
    rows = max(1, SIMILARITY_BYTES // (4 * bank.shape[0]))
    bank = bank.float().t()
    found = []
    for chunk in query.split(rows):
        similarity = chunk.float() @ bank
        if half_square is not None:
            similarity -= half_square
        found.append(similarity.argmax(-1))
    return torch.cat(found)


def nearest_tokens(query: Tensor, bank: Tensor, align: str = "mulmax") -> Tensor:
    """(L,Q,C) queries and (L,M,C) bank -> (L,Q,C): each query token's nearest normal token of the same block."""
    return torch.stack([normal[nearest_index(tokens, normal, align)] for tokens, normal in zip(query, bank)])
