"""A fitted detector as one graph, from pixels to fused map and scores: its `forward` without loops whose
length depends on data.

It differs from models/detector.py in its chunks: it splits the bank, not the queries. All windows of a
photograph are encoded at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.branches import Query
from models.detector import Detector
from models.features import EMBEDDING, TOP1_SHARE, Features, OfBranches, ScoreMaps
from models.matching.candidates import UNRESTRICTED, Matching, PerWindowTopK, SharedTopK
from models.matching.memory_bank import SIMILARITY_VALUES, MemoryBank
from models.views.sliding_windows import WindowGrid
from utils.errors import ModelError
from utils.views import Views

OUTPUTS = ("map", "score", "base_score", "window_score")


@dataclass(frozen=True)
class GraphMatching(Matching):
    """The same as `match`, without loops over the candidates; a query is `windows` windows of each image (1:
    the whole image)."""

    match: Matching = UNRESTRICTED
    windows: int = 1

    def allowed(self, bank: MemoryBank, query: Features) -> Tensor | None:
        """(B,P) bool: which windows of the bank each window of the query may match; None: all."""
        if isinstance(self.match, SharedTopK):
            picked = (query.wanted(EMBEDDING) @ bank.window_keys.t()).argmax(-1)
            places = torch.arange(len(bank.window_keys))
            of_photograph = (picked.view(-1, self.windows, 1) == places).any(1, keepdim=True)
            return of_photograph.expand(-1, self.windows, -1).flatten(0, 1)
        if isinstance(self.match, PerWindowTopK):
            likeness = bank.keys_of(query.tokens) @ bank.window_keys.t()
            picked = likeness.topk(min(self.match.most, likeness.shape[1]), dim=-1).indices
            return torch.zeros_like(likeness, dtype=torch.bool).scatter(1, picked, True)
        return None

    def index(self, bank: MemoryBank, query: Features, align: str) -> Tensor:
        tokens = query.tokens
        if align == "diff2":
            tokens = bank.centre(tokens.flatten(1, 2)).view(tokens.shape)
        allowed = self.allowed(bank, query)
        window = 1 if allowed is None else bank.window
        step = max(1, SIMILARITY_VALUES // (self.windows * tokens.shape[2] * window)) * window
        indices = [
            nearest_in_parts(block, normal, align, step, allowed)
            for block, normal in zip(tokens, bank.centred)
        ]
        return torch.stack(indices)


def nearest_in_parts(
    query: Tensor, bank: Tensor, align: str, step: int, allowed: Tensor | None = None
) -> Tensor:
    """The index (B,n) of the normal token (M,C) nearest to each query token (B,n,C), `step` normal tokens at
    a time.

    `allowed` (B,P) bool: which of the bank's P windows may be matched. Of equally near tokens it is the
    first, as in memory_bank.nearest_index.
    """
    window = 1 if allowed is None else len(bank) // allowed.shape[1]
    best, place = None, None
    for start in range(0, len(bank), step):
        part = bank[start : start + step]
        similarity = query @ part.t()
        if align == "diff2":
            similarity = similarity - part.square().sum(-1) / 2
        if allowed is not None:
            barred = ~allowed[:, start // window : (start + len(part)) // window]
            similarity = similarity.unflatten(-1, (-1, window)).masked_fill(
                barred[:, None, :, None], -torch.inf
            )
            similarity = similarity.flatten(-2)
        value, index = similarity.max(-1)
        if best is None or place is None:
            best, place = value, index
        else:
            place = torch.where(value > best, index + start, place)
            best = torch.maximum(value, best)
    if place is None:
        raise ValueError("The memory bank is empty: fit the references first.")
    return place


class StitchInOne(nn.Module):
    """WindowGrid.stitch of all windows as one look-up: each patch is the mean of its windows' values."""

    index: Tensor
    share: Tensor

    def __init__(self, grid: WindowGrid) -> None:
        super().__init__()
        self.side = grid.grid
        order = grid.patches.flatten().argsort(stable=True)
        count = grid.patches.flatten().bincount(minlength=self.side**2)
        first = count.cumsum(0) - count
        slots = torch.arange(int(count.max()))
        there = slots < count[:, None]
        places = (first[:, None] + slots).clamp(max=len(order) - 1)
        self.register_buffer("index", order[places])
        self.register_buffer("share", there / count[:, None])

    def forward(self, maps: Tensor) -> Tensor:
        """Window maps (M,B,W,n) -> (M,B,G,G)."""
        values = maps.flatten(2)[:, :, self.index.flatten()].unflatten(-1, tuple(self.index.shape))
        return (values * self.share).sum(-1).unflatten(-1, (self.side, self.side))


class DetectorGraph(nn.Module):
    """Pixels (B,[1+T,]3,S,S) uint8 RGB -> the fused map (B,G,G), the image score (B,), the whole image's raw
    score (B,) and, where there are local windows, theirs (B,). `shape`: that of one photograph's input."""

    def __init__(self, detector: Detector, image_score: str) -> None:
        """ModelError for a detector that cannot be one graph."""
        super().__init__()
        refuse_without_graph(detector)
        self.detector, self.image_score = detector.eval().requires_grad_(False), image_score
        self.shape = shape_of(detector)
        self.outputs = OUTPUTS if detector.windows is not None else OUTPUTS[:3]
        if detector.windows is not None:
            self.stitch = StitchInOne(detector.windows.grid)
            self.match = GraphMatching(detector.windows.match, len(detector.windows))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self._outputs(self._score_maps(pixels))

    def plain(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The same outputs from the detector's own `forward`."""
        return self._outputs(self.detector(self.views_of(pixels)))

    def views_of(self, pixels: Tensor) -> Views:
        """The graph's input as the detector's."""
        return Views(pixels) if self.detector.layout is None else Views(pixels[:, 0], pixels[:, 1:])

    def _outputs(self, maps: ScoreMaps) -> tuple[Tensor, ...]:
        fused, raw = maps.fused(self.detector.settings)
        score = raw if self.image_score == "max" else mean_of_top_percent(fused)
        return tuple([fused, score, maps.base_score, maps.window_score][: len(self.outputs)])

    def _score_maps(self, pixels: Tensor) -> ScoreMaps:
        """As Detector.forward, all windows at once."""
        detector, method = self.detector, self.detector.method
        if detector.windows is None:
            return detector(self.views_of(pixels), GraphMatching())
        memory = detector.memories.whole
        views = self.views_of(pixels)
        features = method.features(detector.encode, views, memory)
        query = Query(views, features, GraphMatching())
        raw = detector.whole.raw_maps(method, detector.encode, memory, query)
        of_windows = self._raw_window_maps(pixels, detector.windows.grid)
        whole, windows = map(detector.counted_final, (raw, of_windows))
        return method.combine(OfBranches(whole, windows=windows), detector.side, features)

    def _raw_window_maps(self, pixels: Tensor, grid: WindowGrid) -> Tensor:
        """Images (B,3,S,S) uint8 -> raw maps stitched from all their windows (M,B,G,G)."""
        detector, method = self.detector, self.detector.method
        windows = grid.cut(pixels, detector.backbone.patch_size).flatten(0, 1)
        features = detector.backbone.encode(windows, method.want | self.match.match.want)
        raw = method.raw_maps(features, detector.memory_of("windows"), self.match)
        return self.stitch(raw.unflatten(1, (-1, len(grid))))


def shape_of(detector: Detector) -> tuple[int, ...]:
    """The shape of a detector's input for one photograph: (3,S,S), with tiles (1+T,3,S,S)."""
    side, layout = detector.image_size, detector.layout
    return (3, side, side) if layout is None else (1 + len(layout), 3, side, side)


def mean_of_top_percent(maps: Tensor) -> Tensor:
    """The image score `top1` of maps (B,G,G): the mean (B,) of the highest 1 % of patches."""
    flat = maps.flatten(1)
    return flat.topk(max(1, round(TOP1_SHARE * flat.shape[1])), -1).values.mean(-1)


def refuse_without_graph(detector: Detector) -> None:
    """ModelError for a detector that depends on other photographs, on text, on resized windows, on windows
    chosen by a map, or on narrower numbers than float32."""
    cure = "leave {} out when you make the detector, or inspect with predict.py"
    if detector.takes_test_images:
        raise ModelError(
            "A detector that compares the test images with each other cannot be exported: "
            f"{cure.format('--with-batch or --method batch')}."
        )
    if detector.method.reads_text:
        raise ModelError(
            f"A detector with text cannot be exported: {cure.format('--with-text or --method text')}."
        )
    if detector.windows is not None and detector.windows.budget:
        raise ModelError(
            "A detector that chooses its windows by an image's map cannot be exported: "
            f"{cure.format('--window-budget')}."
        )
    if detector.windows is not None and detector.settings.win_zip:
        raise ModelError(
            f"A detector that resizes its windows cannot be exported: {cure.format('--win-zip')}."
        )
    if detector.backbone.dtype != torch.float32:
        raise ModelError(
            f"The detector was made in {str(detector.backbone.dtype).removeprefix('torch.')} and a graph "
            "computes in float32: make it again with --precision fp32."
        )
