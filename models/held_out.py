"""How high normal photographs score: references against a bank that does not hold them (for a threshold).

With two references or more each is scored against the others. A single one is scored against itself twice: as
it is, which is too kind, and with every patch barred from matching near its own place, which is too strict.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from models.detector import Detection, Detector, summarise
from models.memory_bank import MemoryBank
from models.methods.fdsl import Maps

NEAR = 2.0  # patches: a match this near to the patch's own place, in rows and in columns, is barred


@contextlib.contextmanager
def left_out(detector: Detector, reference: int, references: int) -> Iterator[Detector]:
    """The detector, for as long as the block lasts, as if it had never seen one of its `references` (two or
    more).

    The banks hold the references, each with its copies, one after the other.
    """
    known = detector.bank, detector.window_bank, detector.window_keys
    try:
        detector.bank, detector.window_bank = (
            None
            if bank is None
            else bank.part(_others(len(bank), reference, references, bank.centred.device))
            for bank in known[:2]
        )
        if known[2] is not None:
            detector.window_keys = known[2][_others(len(known[2]), reference, references, known[2].device)]
        yield detector
    finally:
        detector.bank, detector.window_bank, detector.window_keys = known


def _others(rows: int, reference: int, references: int, device: torch.device) -> Tensor:
    """The rows of all references but one."""
    own = torch.arange(rows, device=device) // (rows // references)
    return (own != reference).nonzero()[:, 0]


@torch.no_grad()
def detect_elsewhere(detector: Detector, images: Tensor, places: Tensor) -> Detection:
    """What `detector(images)` gives for copies (B,3,S,S) of its references when no patch may match near its
    own place.

    places (R,N,2): for each of the bank's R photographs, where its patches lie on the unturned reference
    (row, column, in patches). Whatever `index_memory` says, windows are not picked: all reference windows may
    be matched.
    """
    places = places.to(detector.backbone.device)
    tokens = detector.backbone.encode(images).tokens
    full = detector.heads(_discrepancy(detector, tokens, detector.bank, places[0], places.flatten(0, 1)))
    base, base_score = summarise(detector._final(full))
    if detector.windows is None:
        return Detection(base, base_score, None, None)
    stitched = torch.stack(
        [_stitched(detector, image, full, number, places) for number, image in enumerate(images)], dim=1
    )
    window, window_score = summarise(detector._final(detector.heads.refine(stitched)))
    return Detection(base, base_score, window, window_score)


def _stitched(detector: Detector, image: Tensor, full: Maps, number: int, places: Tensor) -> Tensor:
    """Raw maps (L,G,G) of one image's windows, each patch barred from its own place."""
    chosen, patches = None, detector.windows.patches.to(places.device)
    if detector.budget:
        chosen = detector.windows.choose(detector._final(full)[:, number].mean(0), detector.budget)
    bank_places = places[:, patches.flatten()].flatten(0, 1)
    own = patches if chosen is None else patches[chosen]
    parts = zip(detector._encode_windows(image, chosen), own.split(detector._chunk()))
    raw = [
        detector.heads.raw_maps(
            _discrepancy(detector, part.tokens, detector.window_bank, places[0][at], bank_places)
        )
        for part, at in parts
    ]
    return detector.windows.stitch(
        torch.cat(raw, dim=1), chosen, None if chosen is None else full.raw[:, number]
    )


def _discrepancy(
    detector: Detector, tokens: Tensor, bank: MemoryBank, own: Tensor, bank_places: Tensor
) -> Tensor:
    """Tokens (L,B,n,C) at places (n,2) or (B,n,2) against a bank whose M tokens lie at (M,2) -> (L,B,n,C)."""
    own = own.expand(tokens.shape[1], -1, -1)
    index = torch.empty(tokens.shape[:3], dtype=torch.long, device=tokens.device)
    query, half_squares = tokens, [None] * len(tokens)
    if detector.align == "diff2":
        query = bank.centre(tokens.flatten(1, 2)).view_as(tokens)
        half_squares = [normal.float().square().sum(-1) / 2 for normal in bank.centred]
    for image, at in enumerate(own):
        rows, columns = ((at[:, None, axis] - bank_places[None, :, axis]).abs_() <= NEAR for axis in (0, 1))
        barred = rows.logical_and_(columns)
        for block, (normal, half_square) in enumerate(zip(bank.centred, half_squares)):
            index[block, image] = nearest_allowed(query[block, image], normal, barred, half_square)
    found = bank.discrepancy(tokens.flatten(1, 2), detector.align, detector.fd, index.flatten(1))
    return found.to(tokens.dtype).view(tokens.shape)


def restored_bank(mean: Tensor, centred: Tensor) -> MemoryBank:
    """The bank with exactly these values: mean (L,1,C) and tokens relative to it (L,M,C)."""
    bank = object.__new__(MemoryBank)
    bank.mean, bank.centred = mean, centred
    return bank


def nearest_allowed(query: Tensor, bank: Tensor, barred: Tensor, half_square: Tensor | None = None) -> Tensor:
    """(Q,C) and (M,C) -> (Q,), the index of the nearest token that is not barred (Q,M).

    `half_square` (M,), half the tokens' squared lengths, asks for diff2's distance. See nearest_index.
    """
    similarity = query @ bank.t()
    if half_square is not None:
        similarity = similarity.float() - half_square
    return similarity.masked_fill_(barred, -torch.inf).argmax(-1)
