"""The detector: from k normal photographs and a query to an anomaly map and a score (DESIGN section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.backbone import FrozenBackbone, ModelError
from models.fdsl import FDSL, Maps, feature_discrepancy
from models.memory import nearest_tokens
from models.windows import WindowGrid

WINDOW_MODES = ("nan", "mul", "onlywin")
WINDOW_CHUNK_PATCHES = {"cpu": 8 * 169, "cuda": 169 * 169}  # window patches encoded at once


@dataclass(frozen=True)
class WindowSettings:
    """LFE: `mode` nan (off), mul (fused with the full image) or onlywin; `size` and `stride` in patches.

    `index_memory`: only the reference windows picked by the query's windows (their union) are matched against.
    """

    mode: str = "nan"
    size: int = 13
    stride: int = 2
    weight: float = 0.5
    index_memory: bool = False

    @property
    def active(self) -> bool:
        return self.mode != "nan"


class Detection(NamedTuple):
    """Mean over blocks of the anomaly maps (B,G,G), and raw image scores (B,); window parts are None without LFE."""

    base: Tensor
    base_score: Tensor
    window: Tensor | None
    window_score: Tensor | None


class Bank(NamedTuple):
    """Normal tokens (L,M,C); for windows (L,V,n,C) with the V reference windows' image embeddings (V,D)."""

    tokens: Tensor
    embedding: Tensor | None = None


def fuse(base, window, weight: float, mode: str):
    """Maps or scores of both branches -> the detector's own. `mul`: (1 - weight) * base + weight * window."""
    if mode == "nan":
        return base
    if mode == "onlywin":
        return window
    return (1 - weight) * base + weight * window


def summarise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (L,B,G,G) -> their mean over blocks (B,G,G) and the mean over blocks of each one's maximum (B,)."""
    return maps.mean(0), maps.flatten(2).amax(-1).mean(0)


class Detector(nn.Module):
    """A frozen backbone with trained heads and a memory bank of one category's references.

    `fd` none needs no references; otherwise `remember` comes before `forward`. `use_nam` False leaves the refinement
    out (ablation).
    """

    def __init__(self, backbone: FrozenBackbone, heads: FDSL, image_size: int, fd: str = "abs",
                 align: str = "mulmax", windows: WindowSettings = WindowSettings(), use_nam: bool = True) -> None:
        super().__init__()
        if (heads.width, heads.blocks) != (backbone.width, len(backbone.layers)):
            raise ModelError(f"The heads are for {heads.blocks} blocks of width {heads.width}; the backbone gives "
                             f"{len(backbone.layers)} of width {backbone.width}: use the backbone they were trained on.")
        self.backbone, self.heads = backbone, heads.to(backbone.device).eval()
        self.image_size, self.fd, self.align, self.settings = image_size, fd, align, windows
        self.use_nam = use_nam and heads.nam is not None
        self.grid = backbone.grid(image_size)
        self.windows: WindowGrid | None = None
        if windows.active:
            try:
                self.windows = WindowGrid(self.grid, windows.size, windows.stride)
            except ValueError as error:
                raise ModelError(str(error)) from error
        self.bank: Bank | None = None
        self.window_bank: Bank | None = None

    @torch.no_grad()
    def remember(self, references: Tensor) -> None:
        """Fills the memory bank from one category's references (K,3,S,S); what it held before is forgotten."""
        if self.fd == "none":
            return
        if len(references) == 0:
            raise ModelError("There is no reference photograph to remember; only --fd none works without.")
        tokens = [self.backbone.encode(image[None]).tokens.flatten(1, 2) for image in references]
        self.bank = Bank(torch.cat(tokens, dim=1))
        if self.windows is not None:
            parts = [self._encode_windows(image, embedding=self.settings.index_memory) for image in references]
            embedding = torch.cat([part.embedding for part in parts]) if self.settings.index_memory else None
            self.window_bank = Bank(torch.cat([part.tokens for part in parts], dim=1), embedding)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Detection:
        """Anomaly maps and raw scores of images (B,3,S,S); what one image gets does not depend on the others."""
        base, base_score = summarise(self._final(self.full_maps(images)))
        if self.windows is None:
            return Detection(base, base_score, None, None)
        window, window_score = summarise(self._final(self.window_maps(images)))
        return Detection(base, base_score, window, window_score)

    @torch.no_grad()
    def full_maps(self, images: Tensor) -> Maps:
        """Maps of the whole images (B,3,S,S): raw and refined, (L,B,G,G) each."""
        tokens = self.backbone.encode(images).tokens
        return self.heads(self._discrepancy(tokens, self.bank.tokens if self.bank else None))

    @torch.no_grad()
    def window_maps(self, images: Tensor) -> Maps:
        """LFE's maps of images (B,3,S,S): raw ones stitched from the windows, then refined, (L,B,G,G) each."""
        raw = torch.stack([self.windows.stitch(self._score_windows(image)) for image in images], dim=1)
        return self.heads.refine(raw)

    def _final(self, maps: Maps) -> Tensor:
        """The maps that detection uses: refined with NAM, else raw."""
        return maps.refined if self.use_nam else maps.raw

    def _score_windows(self, image: Tensor) -> Tensor:
        """Image (3,S,S) -> raw maps of its windows (L,W,w,w)."""
        if self.settings.index_memory and self.window_bank is not None:
            query = self._encode_windows(image, embedding=True)
            bank = self._picked(query.embedding)
            chunks = query.tokens.split(self._chunk(), dim=1)
        else:
            bank = self.window_bank.tokens.flatten(1, 2) if self.window_bank else None
            chunks = (self.backbone.encode(part).tokens for part in self._cut(image))
        return torch.cat([self.heads.raw_maps(self._discrepancy(tokens, bank)) for tokens in chunks], dim=1)

    def _picked(self, embedding: Tensor) -> Tensor:
        """Tokens (L,M,C) of the reference windows that are most similar to any query window; embedding (W,D)."""
        picked = (embedding @ self.window_bank.embedding.t()).argmax(-1).unique()
        return self.window_bank.tokens[:, picked].flatten(1, 2)

    def _discrepancy(self, tokens: Tensor, bank: Tensor | None) -> Tensor:
        """Tokens (L,B,N,C) against a bank (L,M,C) -> discrepancies (L,B,N,C)."""
        if self.fd == "none":
            return feature_discrepancy(tokens, None, "none")
        if bank is None:
            raise ModelError("The detector has no references yet: call remember() first.")
        nearest = nearest_tokens(tokens.flatten(1, 2), bank, self.align).view_as(tokens)
        return feature_discrepancy(tokens, nearest, self.fd)

    def _encode_windows(self, image: Tensor, embedding: bool) -> Bank:
        """Image (3,S,S) -> its windows' tokens (L,W,n,C) and image embeddings (W,D)."""
        parts = [self.backbone.encode(part, embedding) for part in self._cut(image)]
        return Bank(torch.cat([part.tokens for part in parts], dim=1),
                    torch.cat([part.embedding for part in parts]) if embedding else None)

    def _cut(self, image: Tensor):
        return self.windows.cut(image.to(self.backbone.device), self.backbone.patch_size).split(self._chunk())

    def _chunk(self) -> int:
        """Windows encoded at once on this device."""
        patches = WINDOW_CHUNK_PATCHES.get(self.backbone.device.type, WINDOW_CHUNK_PATCHES["cpu"])
        return max(1, patches // self.settings.size ** 2)
