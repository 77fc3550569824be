"""`plus`: the distance to the nearest normal patch, corrected for the variation of normal images, with an
image score of its own (docs/methods.md).

A patch's residual is its token minus its nearest normal token. For the map, the mean of the shorter half of
an image's residuals is subtracted (common-mode removal), directions in which normal images differ get less
weight (whitening), and similar patches nearby raise each other (bilateral filter). For the image score, a
patch has more weight where it differs from the rest of its own image (self-dissimilarity), and the highest
patches are averaged (top-k pooling).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.features import Features, Sizes
from models.matching.candidates import UNRESTRICTED, Matching
from models.matching.memory_bank import MemoryBank, nearest_index
from models.method import Method, fitted, mean_of_highest
from models.methods.registry import PlusFacts
from models.views.tile_maps import resized, smoothed

COMMON_MODE, WHITENING, BILATERAL, SELF_DISSIMILARITY, TOP_K = PlusFacts.components
SAMPLES = 8  # residuals of a layer per dimension, at most, from which the whitening is estimated
FEW = 1 / 8  # of the images may be left out before the whitening is estimated anew
SIGMA = 3.0  # patches: of the bilateral filter's spatial weights, which are zero from REACH times SIGMA on
REACH = 3.0
TAU = 0.1  # 1 - cosine by which a weight falls to 1/e
ROUNDS = 8  # of the bilateral filter
REGULARISATION = 0.3  # of the mean eigenvalue: added to each, so that no direction's weight is unlimited
NEIGHBOURS = 5  # most similar patches of the same image
SELF_FLOOR = 0.2  # added to the self-dissimilarity, so that the distance of a uniform image counts
DEEPEST = 3  # from so many layers on the deepest one is not in the image score
TILE_SIGMA = 0.7  # patches: of the Gaussian filter over the maps of tiles
TILE_WEIGHT = 2 / 3  # of the tiles in the map


def common_mode(residuals: Tensor) -> Tensor:
    """Residuals (L,B,n,C) -> (L,B,1,C): the mean of the shorter half of each image's residuals, per layer."""
    order = residuals.square().sum(-1).argsort(-1)[..., : max(1, residuals.shape[2] // 2), None]
    return residuals.gather(2, order.expand(-1, -1, -1, residuals.shape[3])).mean(2, keepdim=True)


def whitening_of(residuals: Tensor) -> Tensor:
    """Residuals among normal images (M,C) -> the matrix (C,C) float32 that whitens residuals.

    With e the eigenvalues of mean r r^T and e0 their mean, a direction is scaled by
    sqrt((1 + REGULARISATION) / (e / e0 + REGULARISATION)).
    """
    exact = residuals.double() if residuals.device.type != "mps" else residuals.cpu().double()
    values, directions = torch.linalg.eigh(exact.T @ exact / len(exact))
    share = values.clamp(min=0) / values.mean().clamp(min=torch.finfo(torch.float64).tiny)
    scale = ((1 + REGULARISATION) / (share + REGULARISATION)).sqrt()
    return (directions * scale).to(residuals)


def self_dissimilarity(similarity: Tensor, side: int) -> Tensor:
    """Cosines (...,n,n) among the patches of an image, n = side x side -> (...,n) in [0,1]: half the mean
    cosine distance of each patch to the NEIGHBOURS most similar ones, its own 3 x 3 neighbourhood
    excluded."""
    steps = torch.arange(side, device=similarity.device)
    close = (steps[:, None] - steps).abs() <= 1
    adjacent = (close[:, None, :, None] & close[None, :, None, :]).reshape(side**2, side**2)
    count = max(1, min(NEIGHBOURS, side**2 - 9))
    nearest = similarity.masked_fill(adjacent, -1.0).topk(count, -1).values
    return ((1 - nearest.mean(-1)) / 2).clamp(min=0)


def bilateral(similarity: Tensor, distances: Tensor, near: Tensor) -> Tensor:
    """Cosines (n,n) among the patches of an image, their distances d (n,) and `nearness` (n,n) -> (n,).

    In each of ROUNDS the value of a patch becomes s = sum(w d) / sum(w) over the patches around it, where
    that is higher. w = exp(-r^2 / (2 SIGMA^2)) exp((cos - 1) / TAU) for patches at a distance r of at most
    REACH SIGMA, whose tokens have the cosine cos.
    """
    weights = similarity.sub(1).div_(TAU).exp_().mul_(near)
    weights /= weights.sum(-1, keepdim=True)
    for _ in range(ROUNDS):
        distances = torch.maximum(distances, (weights @ distances[..., None])[..., 0])
    return distances


def nearness(side: int, device: torch.device) -> Tensor:
    """The spatial weights (n,n) of the patches of an image of side x side patches for each other."""
    steps = torch.arange(side, device=device)
    squares = (steps[:, None] - steps).square().float()
    squares = (squares[:, None, :, None] + squares[None, :, None, :]).reshape(side**2, side**2)
    return torch.exp(squares / (-2 * SIGMA**2)) * (squares <= (REACH * SIGMA) ** 2)


@dataclass(frozen=True)
class PlusMemory:
    """The bank of normal tokens and the whitening (L,C,C) of each layer in the tokens' precision, None for a
    bank of one image without rotated copies and for tiles."""

    bank: MemoryBank
    whitening: Tensor | None

    @classmethod
    def of_bank(cls, bank: MemoryBank) -> PlusMemory:
        """The memory with the whitening estimated from the residuals among the bank's images."""
        images = bank.rows()
        if len(images) < 2:
            return cls(bank, None)
        matrices = [
            whitening_of(_among_themselves(centred, mean, images))
            for centred, mean in zip(bank.centred, bank.mean)
        ]
        return cls(bank, torch.stack(matrices).to(bank.centred.dtype))

    def state(self) -> dict[str, Tensor]:
        state = self.bank.state()
        return state if self.whitening is None else {**state, "whitening": self.whitening}

    def without(self, reference: int, references: int) -> PlusMemory:
        """The memory without one of its `references`, each with its copies in order; where that is at most
        FEW of the images the whitening stays."""
        bank = self.bank.without(reference, references)
        if self.whitening is None or references * FEW >= 1:
            return PlusMemory(bank, self.whitening)
        return PlusMemory.of_bank(bank)


def _among_themselves(centred: Tensor, mean: Tensor, images: Sequence[range]) -> Tensor:
    """A bank's tokens (M,C), relative to its `mean` (1,C), and the rows of its images -> the residuals (m,C)
    of an even sample of them from their nearest tokens in other images."""
    step = max(1, math.ceil(sum(map(len, images)) / (SAMPLES * centred.shape[1])))
    tokens, residuals = [centred[rows.start : rows.stop] for rows in images], []
    for number, image in enumerate(tokens):
        own, others = image[::step].float(), torch.cat(tokens[:number] + tokens[number + 1 :])
        index = nearest_index((own + mean).to(centred.dtype), others)
        residuals.append(own - others[index].float())
    return torch.cat(residuals)


def _whitened(residuals: Tensor, whitening: Tensor) -> Tensor:
    """Residuals (L,B,n,C) times their layer's matrix (L,C,C), in the precision of the matrix. On a GPU all
    images of a layer at once, for a product per image would copy the matrix each time; on a CPU image by
    image."""
    residuals = residuals.to(whitening.dtype)
    if residuals.is_cuda:
        return (residuals.flatten(1, 2) @ whitening).view(residuals.shape)
    return residuals @ whitening[:, None]


def _distance(residuals: Tensor) -> Tensor:
    """Residuals (...,C) -> a quarter of their squared lengths (...), at most 1, in float32."""
    return residuals.float().square().sum(-1).div(4).clamp(max=1)


class Plus(PlusFacts, Method[PlusMemory]):
    """2L maps: the layers' distances for the map, then those for the image score."""

    hottest = 0.5
    groups = 2

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> PlusMemory:
        return PlusMemory.of_bank(MemoryBank.collected(parts, sizes, match.keys))

    def fit_tiles(self, parts: Iterable[Features], sizes: Sizes) -> PlusMemory:
        return PlusMemory(MemoryBank.collected(parts, sizes), None)

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> PlusMemory:
        whitening = state.get("whitening")
        bank = MemoryBank.restored(state, dtype)
        return PlusMemory(bank, None if whitening is None else whitening.to(dtype))

    def raw_maps(self, query: Features, memory: PlusMemory | None, match: Matching = UNRESTRICTED) -> Tensor:
        distances, scored = self._distances(query, memory, match)
        side = math.isqrt(query.tokens.shape[2])
        near = nearness(side, query.tokens.device)
        left_out = self.options.leave_out
        smooth, dissimilar = BILATERAL not in left_out, SELF_DISSIMILARITY not in left_out

        def of_images(tokens: Tensor, distances: Tensor, plain: Tensor) -> Tensor:
            """Tokens (...,n,C) of images and their two distances (...,n) -> (2,...,n)."""
            similarity = (tokens @ tokens.transpose(-1, -2)).float()
            if dissimilar:
                plain = (plain * (self_dissimilarity(similarity, side) + SELF_FLOOR)).sqrt()
            return torch.stack([bilateral(similarity, distances, near) if smooth else distances, plain])

        def of_layer(*layer: Tensor) -> Tensor:
            if layer[0].is_cuda or torch.compiler.is_compiling():  # a graph has no loop over images
                return of_images(*layer)
            return torch.stack([of_images(*image) for image in zip(*layer)], dim=1)

        of_layers = [of_layer(*layer) for layer in zip(query.tokens, distances, scored)]
        return torch.stack(of_layers, dim=1).flatten(0, 1)

    def raw_tile_maps(
        self, query: Features, memory: PlusMemory | None, match: Matching = UNRESTRICTED
    ) -> Tensor:
        """Only the distances for the map (L,B,T*N), not whitened."""
        return self._distances(query, memory, match)[0]

    def _distances(
        self, query: Features, memory: PlusMemory | None, match: Matching
    ) -> tuple[Tensor, Tensor]:
        """A quarter of the squared length (L,B,n) of each patch's whitened residual: for the map after
        common-mode removal, and for the image score without it, which must be high for an image that differs
        as a whole."""
        memory = fitted(memory)
        tokens, left_out = query.tokens, self.options.leave_out
        index = match.index(memory.bank, query, self.options.align)
        residuals = memory.bank.discrepancy(tokens.flatten(1, 2), index.flatten(1), "signed")
        residuals = residuals.view(tokens.shape)
        shared = None if COMMON_MODE in left_out else common_mode(residuals)
        if memory.whitening is not None and WHITENING not in left_out:
            residuals = _whitened(residuals, memory.whitening)
            shared = None if shared is None else _whitened(shared, memory.whitening).float()
        plain = _distance(residuals)
        return plain if shared is None else _distance(residuals - shared), plain

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the first L maps (B,G,G), and the image score (B,) of the others."""
        for_map, for_score = maps.chunk(2)
        return for_map.mean(0), self._score(for_score)

    def with_tiles(self, maps: Tensor, tiles: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """The map (B,side,side) is mostly that of the tiles (L,B,H,W); the score (B,) is the whole
        image's."""
        for_map, for_score = maps.chunk(2)
        fine = smoothed(resized(tiles.mean(0), side), TILE_SIGMA)
        coarse = resized(for_map.mean(0), side)
        return (1 - TILE_WEIGHT) * coarse + TILE_WEIGHT * fine, self._score(for_score)

    def _score(self, maps: Tensor) -> Tensor:
        """Maps (L,B,G,G) -> the mean (B,) of the highest patches of their mean. From DEEPEST layers on the
        deepest is left out: the last block of an image model serves its training task and localises worst
        (docs/methods.md)."""
        layers = maps[:-1] if len(maps) >= DEEPEST else maps
        if TOP_K in self.options.leave_out:
            return layers.flatten(2).amax(-1).mean(0)
        return mean_of_highest(layers.mean(0))
