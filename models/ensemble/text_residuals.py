"""Text added to references: the maps of a method and those of the residuals along the text directions.

Res2CLIP's residual form (Liu et al., 2026): a patch's residual from its nearest normal
patch, in the space of CLIP's text, counts more where it points from "normal" to "damaged".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features import PROJECTED, Features, Sizes
from models.matching.candidates import UNRESTRICTED, Matching
from models.matching.memory_bank import MemoryBank
from models.method import TILE_SIGMA, Memory, Method, fitted
from models.views.tile_maps import resized, smoothed
from utils.plain_tensors import taken

TOKEN_WEIGHT = 0.1  # of a token itself, next to its residual
TEXT = "text."  # begins the names of the text's part of a memory's state


def residual_and_text(tokens: Tensor, residuals: Tensor, towards: Tensor) -> Tensor:
    """Projected unit tokens (...,D), their residuals (...,D) from the nearest normal ones and the unit
    direction (D,) from normal to damaged -> (...): |r| + relu(r . R) + TOKEN_WEIGHT (q . R), not below
    zero."""
    found = residuals.norm(dim=-1) + (residuals @ towards).relu() + TOKEN_WEIGHT * (tokens @ towards)
    return found.clamp(min=0)


@dataclass(frozen=True)
class TextMemory:
    """The memory of the method itself, and the bank of projected normal tokens, of one block."""

    own: Memory
    bank: MemoryBank

    def without(self, reference: int, references: int) -> TextMemory:
        return TextMemory(self.own.without(reference, references), self.bank.without(reference, references))

    def state(self) -> dict[str, Tensor]:
        return self.own.state() | {f"{TEXT}{name}": value for name, value in self.bank.state().items()}


class WithText(Method[TextMemory]):
    """The method's own maps and as many of the text for each of its groups; each group is measured
    by what held-out references reach, so that both count alike in map and score."""

    reads_text = True
    want = frozenset({PROJECTED})

    def __init__(self, own: Method, directions: Tensor | None = None) -> None:
        self.scales = (*(f"group {number} of the maps" for number in range(own.groups)), "the text's maps")
        super().__init__(own.width, own.blocks, own.options)
        self.name, self.own, self.rotations = f"{own.name} --with-text", own, own.rotations
        self.register_buffer("directions", torch.zeros(2, 0) if directions is None else directions)

    @classmethod
    def restored_from(cls, own: Method, state: Mapping[str, Tensor]) -> WithText:
        """The method of a saved detector, around its own one; RuntimeError, KeyError or ValueError for a
        state that is not its own."""
        method = cls(own, taken(state, "directions", 2, None).float())
        method.load_state_dict(state)
        return method

    @property
    def towards(self) -> Tensor:
        """The unit direction (D,) from normal to damaged."""
        normal, damaged = self.directions
        return F.normalize(damaged - normal, dim=-1)

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> TextMemory:
        seen = _Seen(parts)
        own = self.own.fit(seen, sizes, match)
        return TextMemory(own, MemoryBank.collected(seen.projected, sizes))

    def fit_tiles(self, parts: Iterable[Features], sizes: Sizes) -> TextMemory:
        seen = _Seen(parts)
        own = self.own.fit_tiles(seen, sizes)
        return TextMemory(own, MemoryBank.collected(seen.projected, sizes))

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> TextMemory:
        text = {name.removeprefix(TEXT): value for name, value in state.items() if name.startswith(TEXT)}
        own = {name: value for name, value in state.items() if not name.startswith(TEXT)}
        bank = MemoryBank.restored(text, torch.float32, self.directions.shape[1], 1)
        return TextMemory(self.own.restored(own, dtype), bank)

    def raw_maps(self, query: Features, memory: TextMemory | None, match: Matching = UNRESTRICTED) -> Tensor:
        memory = fitted(memory)
        return torch.cat([self.own.raw_maps(query, memory.own, match), self._said(query, memory, match)])

    def raw_tile_maps(
        self, query: Features, memory: TextMemory | None, match: Matching = UNRESTRICTED
    ) -> Tensor:
        memory = fitted(memory)
        own = self.own.raw_tile_maps(query, memory.own, match)
        return torch.cat([own, self._said(query, memory, match)])

    def _said(self, query: Features, memory: TextMemory, match: Matching) -> Tensor:
        """The value of the residuals by text (L,B,n), for each block the same."""
        projected = _as_tokens(query)
        tokens = projected.tokens.flatten(1, 2)
        index = match.index(memory.bank, projected, self.options.align).flatten(1)
        residuals = memory.bank.discrepancy(tokens, index, "signed")
        found = residual_and_text(tokens, residuals, self.towards).view(projected.tokens.shape[:3])
        return found.expand(self.blocks, -1, -1)

    def _parts(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The method's own maps, and the text's."""
        return maps[: -self.blocks], maps[-self.blocks :]

    def refine(self, raw: Tensor) -> Tensor:
        own, text = self._parts(raw)
        return torch.cat([self.own.refine(own), text])

    def final(self, maps: Tensor) -> Tensor:
        """As Method.final; of tiles a method may have the first of its groups alone."""
        own, text = (len(part) for part in self._parts(maps))
        levels = self.levels.repeat_interleave(self.blocks)
        levels = torch.cat([levels[:own], levels[-text:]]).view(-1, *[1] * (maps.dim() - 1))
        return torch.where(levels > 0, maps / (maps + levels), maps)

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Half the method's own map (B,G,G) and score (B,), and half the text's."""
        own, text = self._parts(maps)
        return _half_and_half(self.own.summarise(own), super().summarise(text))

    def with_tiles(self, maps: Tensor, tiles: Tensor, side: int) -> tuple[Tensor, Tensor]:
        (own, text), (own_tiles, text_tiles) = self._parts(maps), self._parts(tiles)
        both = (resized(text, side) + smoothed(resized(text_tiles, side), TILE_SIGMA)) / 2
        return _half_and_half(self.own.with_tiles(own, own_tiles, side), super().summarise(both))


class _Seen:
    """Parts as they come, and their projected tokens as the features of one block."""

    def __init__(self, parts: Iterable[Features]) -> None:
        self.parts = parts
        self.projected: list[Features] = []

    def __iter__(self) -> Iterator[Features]:
        for part in self.parts:
            self.projected.append(_as_tokens(part))
            yield part


def _as_tokens(features: Features) -> Features:
    """The projected tokens in the place of those that are matched."""
    return Features(features.wanted(PROJECTED), patches=features.patches, inside=features.inside)


def _half_and_half(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2
