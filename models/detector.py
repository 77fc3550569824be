"""The detector: from k normal photographs and a query to an anomaly map and a score (DESIGN section 2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.backbones.open_clip import FrozenBackbone
from models.discrepancy import feature_discrepancy
from models.features import Features
from models.memory_bank import MemoryBank
from models.methods.fdsl import FDSL, Maps
from models.windows import WindowGrid
from utils.errors import ModelError

logger = logging.getLogger("fdsl")

WINDOW_MODES = ("nan", "mul", "onlywin")
INDEX_MEMORIES = ("0", "1", "window")
QUARTER = -1  # a budget of so many windows that they take about a quarter of the time,
QUARTER_SHARE = 0.23  # which is this share of them: the whole image and the matching take time too
PICKS = 52  # reference windows that a query window is matched against with index_memory "window"
WINDOW_CHUNK_PATCHES = {"cpu": 8 * 169, "cuda": 169 * 169}  # window patches encoded at once


@dataclass(frozen=True)
class WindowSettings:
    """LFE: `mode` nan (off), mul (fused with the full image) or onlywin; `size` and `stride` in patches.

    `index_memory`: which reference windows are matched against: "0" all; "1" those that any window of the
    query picks by its image embedding, as published; "window" for each query window the PICKS whose mean
    tokens are most like its own. `budget`: only this many windows an image are encoded, most of them where
    the base map is high; 0 means all, QUARTER so many that they take about a quarter of the time.
    """

    mode: str = "nan"
    size: int = 13
    stride: int = 2
    weight: float = 0.5
    index_memory: str = "0"
    budget: int = 0

    @property
    def active(self) -> bool:
        return self.mode != "nan"

    @property
    def by_embedding(self) -> bool:
        """Whether windows are picked by their image embeddings."""
        return self.index_memory == "1"


class Detection(NamedTuple):
    """Mean over blocks of the anomaly maps (B,G,G), and raw image scores (B,); window parts are None without
    LFE."""

    base: Tensor
    base_score: Tensor
    window: Tensor | None
    window_score: Tensor | None


def fuse(base, window, weight: float, mode: str):
    """Maps or scores of both branches -> the detector's own. `mul`: (1 - weight) * base + weight * window."""
    if mode == "nan":
        return base
    if mode == "onlywin":
        return window
    return (1 - weight) * base + weight * window


def summarise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (L,B,G,G) -> their mean over blocks (B,G,G) and the mean over blocks of each one's maximum
    (B,)."""
    return maps.mean(0), maps.flatten(2).amax(-1).mean(0)


class Detector(nn.Module):
    """A frozen backbone with trained heads and a memory bank of one category's references.

    `fd` none needs no references; otherwise `remember` comes before `forward`. `use_nam` False leaves the
    refinement out (ablation).
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        heads: FDSL,
        image_size: int,
        fd: str = "abs",
        align: str = "mulmax",
        windows: WindowSettings = WindowSettings(),
        use_nam: bool = True,
    ) -> None:
        super().__init__()
        if (heads.width, heads.blocks) != (backbone.width, len(backbone.layers)):
            raise ModelError(
                f"The heads are for {heads.blocks} blocks of width {heads.width}; the backbone gives "
                f"{len(backbone.layers)} of width {backbone.width}: use the backbone they were trained on."
            )
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
        self.budget = windows.budget
        if windows.active and windows.budget == QUARTER:
            self.budget = math.ceil(QUARTER_SHARE * len(self.windows))
        self.bank: MemoryBank | None = None
        self.window_bank: MemoryBank | None = None
        self.window_keys: Tensor | None = None

    @torch.no_grad()
    def remember(self, references: Tensor) -> None:
        """Fills the memory bank from one category's references (K,3,S,S); what it held before is
        forgotten."""
        if self.fd == "none":
            return
        if len(references) == 0:
            raise ModelError("There is no reference photograph to remember; only --fd none works without.")
        self.bank = self.window_bank = self.window_keys = None  # free them before the new ones are made
        self.bank = MemoryBank.collected(
            (self.backbone.encode(image[None]).tokens[:, 0] for image in references),
            len(references) * self.grid**2,
        )
        if self.windows is not None:
            embeddings: list[Tensor] = []
            self.window_bank = MemoryBank.collected(
                (part for image in references for part in self._windows_of(image, embeddings)),
                len(references) * len(self.windows) * self.settings.size**2,
            )
            if self.settings.by_embedding:
                self.window_keys = torch.cat(embeddings)
            elif self.settings.index_memory == "window":
                self.window_keys = self.window_bank.own_window_keys(self.settings.size**2)

    def _windows_of(self, reference: Tensor, embeddings: list[Tensor]) -> Iterator[Tensor]:
        """The tokens (L,n,C) of a reference's windows, chunk by chunk; their embeddings are added to the
        list."""
        for part in self._encode_windows(reference):
            if part.embedding is not None:
                embeddings.append(part.embedding)
            yield part.tokens.flatten(1, 2)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Detection:
        """Anomaly maps and raw scores of images (B,3,S,S); what one image gets does not depend on the
        others."""
        full = self.full_maps(images)
        base, base_score = summarise(self._final(full))
        if self.windows is None:
            return Detection(base, base_score, None, None)
        window, window_score = summarise(self._final(self.window_maps(images, full)))
        return Detection(base, base_score, window, window_score)

    @torch.no_grad()
    def full_maps(self, images: Tensor) -> Maps:
        """Maps of the whole images (B,3,S,S): raw and refined, (L,B,G,G) each."""
        return self.heads(self._discrepancy(self.backbone.encode(images).tokens, self.bank))

    @torch.no_grad()
    def window_maps(self, images: Tensor, full: Maps | None = None) -> Maps:
        """LFE's maps of images (B,3,S,S): raw ones stitched from the windows, then refined, (L,B,G,G) each.

        With a window budget, the whole images' maps `full` say where windows are worth it and stand where
        none is.
        """
        raw = []
        for number, image in enumerate(images):
            chosen = base = None
            if self.budget:
                full = self.full_maps(images) if full is None else full
                chosen = self.windows.choose(self._final(full)[:, number].mean(0), self.budget)
                base = full.raw[:, number]
            raw.append(self.windows.stitch(self._score_windows(image, chosen), chosen, base))
        return self.heads.refine(torch.stack(raw, dim=1))

    def _final(self, maps: Maps) -> Tensor:
        """The maps that detection uses: refined with NAM, else raw; those of several methods on one scale."""
        return self.heads.on_one_scale(maps.refined if self.use_nam else maps.raw)

    def _score_windows(self, image: Tensor, chosen: Sequence[int] | None) -> Tensor:
        """Image (3,S,S) -> raw maps of its windows, all or the chosen ones, (L,W,w,w)."""
        parts = self._encode_windows(image, chosen)
        bank = self.window_bank
        if bank is not None and self.settings.index_memory == "1":
            parts = list(parts)  # every window picks before the first one is matched
            bank = self._picked_by_any(torch.cat([part.embedding for part in parts]))
        own = self.settings.index_memory == "window"
        return torch.cat(
            [self.heads.raw_maps(self._discrepancy(part.tokens, bank, own)) for part in parts], dim=1
        )

    def _picked_by_any(self, embedding: Tensor) -> MemoryBank:
        """The bank of the reference windows that are most similar to any query window; embedding (W,D)."""
        picked = (embedding @ self.window_keys.t()).argmax(-1).unique()
        patches = self.settings.size**2
        return self.window_bank.part(
            (picked[:, None] * patches + torch.arange(patches, device=picked.device)).flatten()
        )

    def _discrepancy(self, tokens: Tensor, bank: MemoryBank | None, own_picks: bool = False) -> Tensor:
        """Tokens (L,B,N,C) against a bank -> discrepancies (L,B,N,C) in the tokens' precision; with
        `own_picks` each window is matched against the reference windows that it picks."""
        if self.fd == "none":
            return feature_discrepancy(tokens, None, "none").to(tokens.dtype)
        if bank is None:
            raise ModelError("The detector has no references yet: call remember() first.")
        index = None
        if own_picks:
            likeness = bank.window_keys(tokens) @ self.window_keys.t()
            picked = likeness.topk(min(PICKS, likeness.shape[1]), dim=-1).indices
            index = bank.index_within(tokens, picked, self.align).flatten(1)
        return (
            bank.discrepancy(tokens.flatten(1, 2), self.align, self.fd, index)
            .to(tokens.dtype)
            .view_as(tokens)
        )

    def _encode_windows(self, image: Tensor, chosen: Sequence[int] | None = None) -> Iterator[Features]:
        """Image (3,S,S) -> features of its windows, chunk by chunk."""
        windows = self.windows.cut(image.to(self.backbone.device), self.backbone.patch_size, chosen)
        return (
            self.backbone.encode(part, embedding=self.settings.by_embedding)
            for part in windows.split(self._chunk())
        )

    def _chunk(self) -> int:
        """Windows encoded at once on this device."""
        patches = WINDOW_CHUNK_PATCHES.get(self.backbone.device.type, WINDOW_CHUNK_PATCHES["cpu"])
        return max(1, patches // self.settings.size**2)

    def halve_windows(self) -> bool:
        """Half as many windows are encoded at once from now on, by every detector on this kind of device;
        False where it is one already or there are none."""
        now = min(self._chunk(), len(self.windows)) if self.windows is not None else 0
        if now <= 1:
            return False
        WINDOW_CHUNK_PATCHES[self.backbone.device.type] = now // 2 * self.settings.size**2
        logger.warning("Out of memory with %d windows at once: going on with %d.", now, now // 2)
        return True
