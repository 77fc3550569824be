"""The data types that backbone, method and their callers exchange, with all shapes.

L feature layers, B images (or windows), n tokens per image, C token width, D width of the image embedding, G
patches along a side, M maps of a method (one per block for most).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.config import WindowConfig

Sizes = Sequence[Sequence[int]]  # of each reference, of each of its copies: the number of tokens in a layer
Array = Any  # a torch.Tensor in the detector, a numpy.ndarray from the scorer on

# The features that `Backbone.encode` gives on demand only.
EMBEDDING = "embedding"
RAW_TOKENS = "raw_tokens"
PROJECTED = "projected"

TOP1_SHARE = 0.01  # the image score `top1` is the mean of this share of the highest patch scores


class Features(NamedTuple):
    """The output of a backbone for B images or windows.

    tokens (L,B,n,C): patch tokens of the feature layers, of unit length, in the backbone's precision.
    embedding (B,D): the image embedding, of unit length, float32. raw_tokens (L,B,n,C): the same tokens
    before they were brought to unit length, float32. patches (n,) or (B,n): which patch of the whole image
    each token is; None: all of them in order. projected (1,B,n,D): patch tokens in the space of the image
    embedding and of text, of unit length, float32 (models/backbones/open_clip.py). stored_as: for each
    of the B, the number of the same photograph among those that a detector compares, or None; None: not
    looked up. inside (B,n) bool: which tokens of a rotated copy lie inside the photograph; None: all.
    """

    tokens: Tensor
    embedding: Tensor | None = None
    raw_tokens: Tensor | None = None
    patches: Tensor | None = None
    projected: Tensor | None = None
    stored_as: tuple[int | None, ...] | None = None
    inside: Tensor | None = None

    def counted_tokens(self) -> Tensor:
        """The tokens (L,M,C) inside their photographs, of all B images in order."""
        tokens = self.tokens.flatten(1, 2)
        return tokens if self.inside is None else tokens[:, self.inside.flatten().to(tokens.device)]

    def counted_patches(self) -> Tensor | None:
        """The patches (M,) of `counted_tokens`; None: all in order."""
        if self.patches is None or self.inside is None:
            return None if self.patches is None else self.patches.flatten()
        return self.patches.flatten()[self.inside.flatten().to(self.patches.device)]

    def wanted(self, name: str) -> Tensor:
        """EMBEDDING or PROJECTED; ValueError where the backbone was not asked for it."""
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"The backbone was not asked for {name}.")
        return value

    def each_tokens(self, function: Callable[[Tensor], Tensor]) -> Features:
        """`function` of the tokens, and of the raw and projected ones where there are some."""
        raw = None if self.raw_tokens is None else function(self.raw_tokens)
        projected = None if self.projected is None else function(self.projected)
        return self._replace(tokens=function(self.tokens), raw_tokens=raw, projected=projected)


class OfBranches(NamedTuple):
    """A tensor of each of a detector's branches (models/branches.py): of whole images and, where it looks at
    these too, of their tiles and local windows."""

    whole: Tensor
    tiles: Tensor | None = None
    windows: Tensor | None = None


@dataclass(frozen=True)
class ScoreMaps:
    """Anomaly maps and raw image scores of B images, before anything is fused or decided.

    base (B,G,G) and base_score (B,): of the whole images, with their tiles where there are some (G is then
    twice the patches along a side). window, window_score: of their local windows (LFE);
    None without. Of one photograph: (G,G) and numbers. Values lie in [0,1], higher is more anomalous.
    """

    base: Array
    base_score: Array
    window: Array | None = None
    window_score: Array | None = None

    def __len__(self) -> int:
        return len(self.base)

    @property
    def arrays(self) -> list[Array]:
        """The two or four arrays that are there."""
        return [part for part in vars(self).values() if part is not None]

    def each(self, function: Callable[[Array], Array]) -> ScoreMaps:
        """`function` of every array that is there."""
        return ScoreMaps(*(None if part is None else function(part) for part in vars(self).values()))

    def of(self, rows: Any) -> ScoreMaps:
        """The maps of some images: an index, a slice or a list of rows."""
        return self.each(lambda part: part[rows])

    def fused(self, windows: WindowConfig) -> tuple[Array, Array]:
        """The detector's own maps and raw scores, of both branches together (docs/design.md, section 2.9)."""
        return (fuse(self.base, self.window, windows), fuse(self.base_score, self.window_score, windows))


def fuse(base: Array, window: Array | None, windows: WindowConfig) -> Array:
    """Maps or scores of both branches -> the detector's own. `mul`: (1 - weight) * base + weight * window."""
    if windows.winmode == "nan" or window is None:
        return base
    if windows.winmode == "onlywin":
        return window
    weight = np.float32(windows.win_weight)
    return (1 - weight) * base + weight * window


def join_score_maps(parts: Sequence[ScoreMaps]) -> ScoreMaps:
    """The maps of several batches, one after the other: all tensors or all arrays, all with windows or
    none."""
    together = torch.cat if isinstance(parts[0].base, Tensor) else np.concatenate
    columns = zip(*(part.arrays for part in parts), strict=True)
    return ScoreMaps(*(together(column) for column in columns))
