"""Text without references: whether a photograph is more similar to "damaged" than to "normal".

WinCLIP's image score (Jeong et al., CVPR 2023), and the same for each patch by its projected token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.features import EMBEDDING, PROJECTED, Features
from models.matching.candidates import UNRESTRICTED, Matching
from models.method import Memory, Method
from models.methods.registry import TextFacts
from utils.config import MethodConfig

SHARPNESS = 100  # of the softmax: CLIP's own at the end of its training


def damaged_share(embeddings: Tensor, directions: Tensor) -> Tensor:
    """Unit embeddings (...,D) and the directions (2,D) of normal and damaged -> the probability (...) of
    damaged: softmax(SHARPNESS [g . t_normal, g . t_damaged])[1]."""
    return (SHARPNESS * (embeddings @ directions.T)).softmax(-1)[..., 1]


class ByText(TextFacts, Method[Memory]):
    """Two maps: each patch's probability of damaged, and that of the whole image (window, tile), the same in
    all of its patches, for the score."""

    want = frozenset({EMBEDDING, PROJECTED})

    def __init__(self, width: int, blocks: int, options: MethodConfig | None = None) -> None:
        super().__init__(width, blocks, options)
        self.register_buffer("directions", torch.zeros(2, 0))

    def raw_maps(self, query: Features, memory: Memory | None, match: Matching = UNRESTRICTED) -> Tensor:
        patches = damaged_share(query.wanted(PROJECTED), self.directions)
        photographs, count = patches.shape[1:]
        whole = damaged_share(query.wanted(EMBEDDING), self.directions).view(photographs, -1)
        return torch.cat([patches, whole.repeat_interleave(count // whole.shape[1], dim=1)[None]])

    def summarise(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The patches' map (B,G,G), and the highest value of the other map (B,)."""
        patches, whole = maps
        return patches, whole.flatten(1).amax(-1)
