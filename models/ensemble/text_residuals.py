"""Text added to a method with references: its maps, and maps of residuals along the text direction.

Res2CLIP's residual form (Liu et al., 2026): a patch's residual from its nearest normal patch, in the space of
CLIP's text, has more weight where it points from "normal" to "damaged".
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

TOKEN_WEIGHT = 0.1  # of the token itself, in addition to its residual
TEXT = "text."  # prefix of the text's tensors in a memory's state


def residual_and_text(tokens: Tensor, residuals: Tensor, towards: Tensor) -> Tensor:
    """Projected unit tokens (...,D), their residuals (...,D) from the nearest normal ones and the unit
    direction (D,) from normal to damaged -> (...): |r| + relu(r . R) + TOKEN_WEIGHT (q . R), not below
    zero."""
    values = residuals.norm(dim=-1) + (residuals @ towards).relu() + TOKEN_WEIGHT * (tokens @ towards)
    return values.clamp(min=0)


@dataclass(frozen=True)
class TextMemory:
    """The memory of the method itself, and the bank of projected normal tokens, of one layer."""

    own: Memory
    bank: MemoryBank

    def without(self, reference: int, references: int) -> TextMemory:
        return TextMemory(self.own.without(reference, references), self.bank.without(reference, references))

    def state(self) -> dict[str, Tensor]:
        return self.own.state() | {f"{TEXT}{name}": value for name, value in self.bank.state().items()}


class WithText(Method[TextMemory]):
    """The method's own maps and L maps of the text. Each of the method's groups and the text's maps are
    divided by the scale of held-out references, so that both have the same weight in map and score."""

    reads_text = True
    want = frozenset({PROJECTED})

    def __init__(self, own: Method, directions: Tensor | None = None) -> None:
        self.scales = (*(f"group {number} of the maps" for number in range(own.groups)), "the text's maps")
        super().__init__(own.width, own.blocks, own.options)
        self.name, self.own, self.rotations = f"{own.name} --with-text", own, own.rotations
        self.register_buffer("directions", torch.zeros(2, 0) if directions is None else directions)

    @property
    def towards(self) -> Tensor:
        """The unit direction (D,) from normal to damaged."""
        normal, damaged = self.directions
        return F.normalize(damaged - normal, dim=-1)

    def fit(self, parts: Iterable[Features], sizes: Sizes, match: Matching = UNRESTRICTED) -> TextMemory:
        projected: list[Features] = []
        own = self.own.fit(_recorded(parts, projected), sizes, match)
        return TextMemory(own, MemoryBank.collected(projected, sizes))

    def fit_tiles(self, parts: Iterable[Features], sizes: Sizes) -> TextMemory:
        projected: list[Features] = []
        own = self.own.fit_tiles(_recorded(parts, projected), sizes)
        return TextMemory(own, MemoryBank.collected(projected, sizes))

    def restored(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> TextMemory:
        text = {name.removeprefix(TEXT): value for name, value in state.items() if name.startswith(TEXT)}
        own = {name: value for name, value in state.items() if not name.startswith(TEXT)}
        bank = MemoryBank.restored(text, torch.float32)
        return TextMemory(self.own.restored(own, dtype), bank)

    def raw_maps(self, query: Features, memory: TextMemory | None, match: Matching = UNRESTRICTED) -> Tensor:
        memory = fitted(memory)
        return torch.cat([self.own.raw_maps(query, memory.own, match), self._of_text(query, memory, match)])

    def raw_tile_maps(
        self, query: Features, memory: TextMemory | None, match: Matching = UNRESTRICTED
    ) -> Tensor:
        memory = fitted(memory)
        own = self.own.raw_tile_maps(query, memory.own, match)
        return torch.cat([own, self._of_text(query, memory, match)])

    def _of_text(self, query: Features, memory: TextMemory, match: Matching) -> Tensor:
        """The text's maps (L,B,n), the same for each layer."""
        projected = _as_tokens(query)
        tokens = projected.tokens.flatten(1, 2)
        index = match.index(memory.bank, projected, self.options.align).flatten(1)
        residuals = memory.bank.discrepancy(tokens, index, "signed")
        values = residual_and_text(tokens, residuals, self.towards).view(projected.tokens.shape[:3])
        return values.expand(self.blocks, -1, -1)

    def _parts(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The method's own maps, and the text's."""
        return maps[: -self.blocks], maps[-self.blocks :]

    def refine(self, raw: Tensor) -> Tensor:
        own, text = self._parts(raw)
        return torch.cat([self.own.refine(own), text])

    def scale_of(self, maps: int) -> Tensor:
        """As Method.scale_of; for tiles a method may have only the first of its groups."""
        scale = self.calibration.repeat_interleave(self.blocks)
        return torch.cat([scale[: maps - self.blocks], scale[-self.blocks :]])

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The means of the method's own map (B,G,G) and score (B,) and of the text's."""
        own, text = self._parts(maps)
        return _half_and_half(self.own.summarise(own), super().summarise(text))

    def with_tiles(self, maps: Tensor, tiles: Tensor, side: int) -> tuple[Tensor, Tensor]:
        (own, text), (own_tiles, text_tiles) = self._parts(maps), self._parts(tiles)
        both = (resized(text, side) + smoothed(resized(text_tiles, side), TILE_SIGMA)) / 2
        return _half_and_half(self.own.with_tiles(own, own_tiles, side), super().summarise(both))


def _recorded(parts: Iterable[Features], projected: list[Features]) -> Iterator[Features]:
    """The parts; the projected tokens of each are appended to a list, as features of one layer."""
    for part in parts:
        projected.append(_as_tokens(part))
        yield part


def _as_tokens(features: Features) -> Features:
    """Features whose tokens are the projected ones."""
    return Features(features.wanted(PROJECTED), patches=features.patches, inside=features.inside)


def _half_and_half(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2
