"""A training-free method without matching: the distance of a patch from the subspace of normal patches.

SubspaceAD's arithmetic (2026): a patch's token is the mean of the feature layers' tokens, not of unit length.
Mean and covariance of the references' tokens give their principal directions. The fewest that explain
EXPLAINED of the variance span the subspace; the map is the squared residual outside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.features import RAW_TOKENS, Features, Sizes
from models.matching.candidates import UNRESTRICTED, Masked, Matching
from models.method import Method, fitted
from models.methods.registry import SubspaceFacts
from utils.errors import ModelError

EXPLAINED = 0.99  # of the references' variance


@dataclass(frozen=True)
class SubspaceMemory:
    """The subspace of normal tokens: their mean (C,) and principal directions (C,D), float32.

    tokens (M,C): those it was fitted to, None in a loaded detector. patches (M,): the patch of each token in
    its photograph, None: all in order. sizes: how many tokens each photograph has, in order. others: cached
    subspaces without a quarter of the reference.
    """

    mean: Tensor
    directions: Tensor
    tokens: Tensor | None = None
    patches: Tensor | None = None
    sizes: tuple[int, ...] = ()
    others: dict[tuple[Masked, int], SubspaceMemory] = field(default_factory=dict, compare=False)

    @classmethod
    def fitted(cls, tokens: Tensor, patches: Tensor | None = None, sizes: Sizes = ()) -> SubspaceMemory:
        """The subspace of tokens (M,C) float32, computed in float64, on the CPU where the device has none."""
        exact = tokens.double() if tokens.device.type != "mps" else tokens.cpu().double()
        mean = exact.mean(0)
        centred = exact - mean
        variances, directions = torch.linalg.eigh(centred.T @ centred / max(1, len(exact) - 1))
        explained = variances.flip(0).clamp(min=0).cumsum(0)
        fewest = int((explained < EXPLAINED * explained[-1]).sum()) + 1
        principal = directions.flip(1)[:, :fewest]
        each = tuple(size for own in sizes for size in own)
        return cls(mean.to(tokens), principal.to(tokens).contiguous(), tokens, patches, each)

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "directions": self.directions}

    def without(self, reference: int, references: int) -> SubspaceMemory:
        """The subspace without one of its `references`, each with its copies in order."""
        copies, tokens = len(self.sizes) // references, self._tokens()
        first, after = (sum(self.sizes[: number * copies]) for number in (reference, reference + 1))
        place = torch.arange(len(tokens), device=tokens.device)
        return self._part((place < first) | (place >= after))

    def residual(self, tokens: Tensor) -> Tensor:
        """Tokens (...,C) -> their squared distance (...) from the subspace."""
        centred = tokens - self.mean
        return (centred - centred @ self.directions @ self.directions.T).square().sum(-1)

    def residual_elsewhere(self, tokens: Tensor, query: Features, match: Masked) -> Tensor:
        """Tokens (B,n,C) of copies of the reference -> residuals (B,n), each patch against the subspace of
        the other three quarters of the reference."""
        own = _quarters(match.of_query(query), match).expand(tokens.shape[:2])
        residuals = tokens.new_empty(tokens.shape[:2])
        for quarter in own.unique().tolist():
            if (match, quarter) not in self.others:
                places = match.of_memory(self.patches, self.sizes).to(tokens.device)
                self.others[match, quarter] = self._part(_quarters(places, match) != quarter)
            inside = own == quarter
            residuals[inside] = self.others[match, quarter].residual(tokens[inside])
        return residuals

    def _part(self, chosen: Tensor) -> SubspaceMemory:
        """The subspace of the chosen (M,) bool tokens."""
        patches = None if self.patches is None else self.patches[chosen]
        return SubspaceMemory.fitted(self._tokens()[chosen], patches)

    def _tokens(self) -> Tensor:
        if self.tokens is None:
            raise ModelError(
                "A loaded detector of method subspace holds no tokens to leave out; fit it to the references "
                "again."
            )
        return self.tokens


class Subspace(SubspaceFacts, Method[SubspaceMemory]):
    """One map for all layers: each patch's squared residual outside the references' principal directions,
    divided by the scale of held-out references."""

    want = frozenset({RAW_TOKENS})
    scales = ("the residuals",)

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> SubspaceMemory:
        tokens, patches = [], []
        for part in parts:
            tokens.append(part._replace(tokens=_mean_tokens(part)[None]).counted_tokens()[0])
            patches += [] if (own := part.counted_patches()) is None else [own]
        return SubspaceMemory.fitted(torch.cat(tokens), torch.cat(patches) if patches else None, sizes)

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> SubspaceMemory:
        return SubspaceMemory(state["mean"].float(), state["directions"].float())

    def raw_maps(
        self, query: Features, memory: SubspaceMemory | None, match: Matching = UNRESTRICTED
    ) -> Tensor:
        memory, tokens = fitted(memory), _mean_tokens(query)
        if isinstance(match, Masked):
            return memory.residual_elsewhere(tokens, query, match)[None]
        return memory.residual(tokens)[None]


def _mean_tokens(features: Features) -> Tensor:
    """The mean (B,n,C) of the feature layers' raw tokens, float32."""
    if features.raw_tokens is None:
        raise ValueError("method subspace needs the raw tokens that it names in `want`")
    return features.raw_tokens.mean(0)


def _quarters(places: Tensor, match: Masked) -> Tensor:
    """Places (...,2) on the unrotated reference -> the quarter of it (...) that they lie in, 0 to 3."""
    first = match.places[0]
    middle = (first.amax(0) + first.amin(0)).to(places.device) / 2
    below, right = (places > middle).unbind(-1)
    return 2 * below.long() + right.long()
