"""What heads can see of a photograph beside references, and heads that are tried on it (benchmarks/heads.py).

Some are the product's own, others live here alone: one head of convolutions for all blocks, and small ones
over the maps of `plus`. Shapes as in models/features.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.judgement import Setting
from fdsl.calibration import as_unknown
from fdsl.fitting import ADAM_BETAS
from fdsl.scoring import Scorer
from fdsl.training import losses
from fdsl.turning import show
from models.backbone import Backbone
from models.features import Features
from models.matching import EVERYTHING, Matching
from models.memory_bank import MemoryBank
from models.method import mean_of_highest
from models.methods.both import Both
from models.methods.fdsl import Fdsl, Maps
from models.methods.nearest import nearest_distance
from models.methods.plus import Plus, PlusMemory, without_the_shared
from models.pair import scaled

PLUS = "plus:leave_out=bilateral+early_score"  # whose maps are the distances, all blocks alike
NEIGHBOURS = (1, 3, 9)
LEAST = 1e-4  # of a distance whose logarithm is taken
HIDDEN, FEW = 32, 16  # channels of heads on tokens and on maps
BATCH, LEARNING_RATE = 8, 1e-3  # as train.py's defaults


class Shown(NamedTuple):
    """A photograph beside references: its `tokens` (L,N,C) and their signed `residuals` (L,N,C) from the
    nearest normal ones; `near` (L,3,N), half the mean cosine distance to as many of them as NEIGHBOURS says
    (where matches were barred, to the nearest alone); the maps (2L,N) of `plus`; and the `references`."""

    tokens: Tensor
    residuals: Tensor
    near: Tensor
    plus: Tensor
    references: References

    @property
    def unlike(self) -> Tensor:
        """Logarithms (L,N) of how unlike the rest of its photograph each patch is."""
        distances, scored = log(self.plus).chunk(2)
        return 2 * scored - distances


def log(distances: Tensor) -> Tensor:
    return (distances + LEAST).log()


@dataclass(frozen=True)
class Found(Matching):
    """The places (L,B,n) that were found before."""

    places: Tensor

    def index(self, bank: MemoryBank, query: Features, align: str) -> Tensor:
        return self.places


class References:
    """A product's references as one backbone sees them, remembered by `plus` in turned copies."""

    def __init__(
        self, backbone: Backbone, side: int, photographs: Sequence[Image.Image], rotations: int | str
    ) -> None:
        self.scorer = Scorer(Setting.read(PLUS, rotations).detector(backbone, side))
        self.photographs = photographs
        self.turned = show(self.scorer, photographs, rotations)
        self.method, memory = self.scorer.detector.method, self.scorer.detector.memory
        if not isinstance(memory, PlusMemory) or not isinstance(self.method, Plus):
            raise TypeError("plus remembers in a way of its own")
        self.memory = memory

    def beside(self, pixels: Tensor, match: Matching = EVERYTHING) -> Shown:
        """A photograph (3,S,S) uint8."""
        detector, bank = self.scorer.detector, self.memory.bank
        features = detector.encode(detector.normalised(pixels[None]))
        tokens = features.tokens[:, 0]
        near, places = nearest_of_bank(tokens, bank)
        if match is not EVERYTHING:
            places = match.index(bank, features, "mulmax")[:, 0]
        residuals = bank.discrepancy(tokens, places, "signed")
        if match is not EVERYTHING:
            near = nearest_distance(residuals)[:, None].expand_as(near)
        plus = self.method.raw_maps(features, self.memory, Found(places[:, None]))[:, 0]
        return Shown(tokens, residuals, near, plus, self)

    @cached_property
    def unknown(self) -> list[Shown]:
        """Copies of the references as photographs that are not known, from which levels come."""
        return [
            self.beside(pixels, batch.match or EVERYTHING)
            for batch in as_unknown(self.scorer, self.photographs, self.turned)
            for pixels in batch.pixels
        ]


def nearest_of_bank(tokens: Tensor, bank: MemoryBank) -> tuple[Tensor, Tensor]:
    """Tokens (L,N,C) -> `Shown.near` (L,3,N), and the place (L,N) of each one's nearest normal token."""
    likeness = tokens @ bank.centred.transpose(1, 2)
    values, places = likeness.topk(min(NEIGHBOURS[-1], len(bank)), dim=-1)
    distances = (1 - values - tokens @ bank.mean.transpose(1, 2)).clamp(min=0) / 2
    return torch.stack([distances[..., :count].mean(-1) for count in NEIGHBOURS], 1), places[..., 0]


# What a head sees of a photograph, (M,N,C) ------------------------------------------------------------------


def absolute(shown: Shown) -> Tensor:
    """|q - m|, as published."""
    return shown.residuals.abs()


def context(shown: Shown) -> Tensor:
    """q + |q - m|, as --fd context."""
    return shown.tokens + shown.residuals.abs()


def weighed(shown: Shown) -> Tensor:
    """|q - m| by the references' own residuals: what is shared taken away, the directions weighed."""
    residuals = without_the_shared(shown.residuals[:, None])[:, 0]
    weights = shown.references.memory.weights
    return (residuals if weights is None else residuals @ weights).abs()


def with_distances(shown: Shown) -> Tensor:
    """|q - m| beside the distances to 1, 3 and 9 neighbours and how unlike its photograph a patch is."""
    distances = torch.cat([log(shown.near), shown.unlike[:, None]], 1)
    return torch.cat([absolute(shown), distances.transpose(1, 2)], -1)


def maps_of_plus(shown: Shown) -> Tensor:
    """The logarithms of the 2L maps of `plus`, one input for all blocks."""
    return log(shown.plus).t()[None]


# Heads: inputs (M,B,N,C) -> Maps ----------------------------------------------------------------------------


class OneHead(nn.Module):
    """One head for all M inputs of a photograph: the mean of their logits, (1,B,S,S) as probabilities."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: Tensor) -> Maps:
        grid = math.isqrt(inputs.shape[2])
        images = inputs.flatten(0, 1).transpose(1, 2).unflatten(-1, (grid, grid))
        logits = self.layers(images).unflatten(0, inputs.shape[:2]).mean(0)
        return Maps(logits.sigmoid().transpose(0, 1), None)


def convolutions(width: int, hidden: int) -> OneHead:
    """3 x 3 patches, then four times as fine."""
    half = hidden // 2
    return OneHead(
        nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Conv2d(width, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(hidden, half, 2, 2),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(half, half, 2, 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, 1, 3, padding=1),
        )
    )


def perceptron(width: int, hidden: int) -> OneHead:
    """Each patch by itself."""
    return OneHead(
        nn.Sequential(
            nn.BatchNorm2d(width), nn.Conv2d(width, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 1, 1)
        )
    )


def published(width: int, blocks: int) -> Fdsl:
    return Fdsl(width, blocks)


def on_tokens(width: int, blocks: int) -> OneHead:
    return convolutions(width, HIDDEN)


def on_tokens_and_distances(width: int, blocks: int) -> OneHead:
    return convolutions(width + len(NEIGHBOURS) + 1, HIDDEN)


def on_maps(width: int, blocks: int) -> OneHead:
    return convolutions(2 * blocks, FEW)


def on_maps_patch_by_patch(width: int, blocks: int) -> OneHead:
    return perceptron(2 * blocks, FEW)


class Variant(NamedTuple):
    """Heads, by what they are called in tables: what they see, what they are (of a width and a number of
    blocks), which images they learn from (real defects, drawn ones or mixed), beside how many references, and
    how many times as long as others."""

    sees: Callable[[Shown], Tensor]
    head: Callable[[int, int], Fdsl | OneHead]
    learns: str = "real"
    shots: int = 1
    longer: int = 1


PUBLISHED_SHOTS = 10
VARIANTS = {
    "maps": Variant(maps_of_plus, on_maps, longer=5),
    "maps, mixed": Variant(maps_of_plus, on_maps, "mixed", longer=5),
    "maps by patch, mixed": Variant(maps_of_plus, on_maps_patch_by_patch, "mixed", longer=5),
    "one head": Variant(absolute, on_tokens),
    "one head, weighed": Variant(weighed, on_tokens),
    "one head, distances": Variant(with_distances, on_tokens_and_distances),
    "fdsl": Variant(absolute, published, shots=PUBLISHED_SHOTS),
    "fdsl, one reference": Variant(absolute, published),
    "fdsl, context": Variant(context, published, shots=PUBLISHED_SHOTS),
    "fdsl, drawn": Variant(absolute, published, "drawn"),
    "fdsl, mixed": Variant(absolute, published, "mixed"),
}

Example = tuple[Shown, Tensor]  # a photograph, and where its defects are: (1,S,S) of 0 and 1


def fitted(variant: Variant, examples: Sequence[Example], steps: int, seed: int) -> Fdsl | OneHead:
    """The heads after so many steps of BATCH examples, drawn epoch by epoch, with train.py's loss."""
    torch.manual_seed(seed)
    blocks, _, width = examples[0][0].tokens.shape
    head = variant.head(width, blocks).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE, betas=ADAM_BETAS)
    order: list[int] = []
    for _ in range(steps * variant.longer):
        if len(order) < BATCH:
            order = [*order, *torch.randperm(len(examples)).tolist()]
        chosen, order = [examples[index] for index in order[:BATCH]], order[BATCH:]
        inputs = torch.stack([variant.sees(shown) for shown, _ in chosen], 1)
        focal, dice = losses(head(inputs), torch.stack([mask for _, mask in chosen]))
        optimizer.zero_grad(set_to_none=True)
        (focal + dice).backward()
        optimizer.step()
    return head.eval()


class Told(NamedTuple):
    """Maps (B,S,S) and scores (B,)."""

    maps: Tensor
    scores: Tensor


class Judge:
    """Trained heads beside a product's references: alone, and with methods without training."""

    def __init__(self, variant: Variant, head: Fdsl | OneHead, references: References) -> None:
        self.variant, self.head, self.references = variant, head, references
        self.both = Both(head).eval() if isinstance(head, Fdsl) else None
        self.levels: list[list[float]] = []  # of maps and scores that references reach: own, and of plus
        self._set_levels([[shown] for shown in references.unknown])

    def __call__(self, photographs: Sequence[Shown]) -> dict[str, Told]:
        """By what stands behind a variant's name in tables: alone; the geometric mean with `plus`; the mean
        of both on one scale; and of train.py's heads with `nearest`, as method both."""
        probabilities, distances = self._groups(photographs)
        own, plus = self._alone(probabilities), self._plus(photographs, probabilities.shape[-1])
        found = {
            "": own,
            " x plus": Told(*((one * other).sqrt() for one, other in zip(own, plus))),
            " + plus": Told(*self._on_one_scale(own, plus)),
        }
        if self.both is not None:
            final = self.both.final(torch.cat([probabilities, distances]))
            found[" + nearest"] = Told(*self.both.summarise(final))
        return found

    def _groups(self, photographs: Sequence[Shown]) -> tuple[Tensor, Tensor]:
        """The heads' final maps (M,B,S,S), and the distances (L,B,G,G) of `nearest`."""
        maps = self.head(torch.stack([self.variant.sees(shown) for shown in photographs], 1))
        residuals = torch.stack([shown.residuals for shown in photographs], 1)
        grid = math.isqrt(residuals.shape[2])
        distances = nearest_distance(residuals).unflatten(-1, (grid, grid))
        return maps.raw if maps.refined is None else maps.refined, distances

    def _alone(self, probabilities: Tensor) -> Told:
        if self.both is not None:
            return Told(*self.both.trained.summarise(probabilities))
        return Told(probabilities.mean(0), mean_of_highest(probabilities.mean(0)))

    def _plus(self, photographs: Sequence[Shown], side: int) -> Told:
        raw = torch.stack([shown.plus for shown in photographs], 1)
        grid = math.isqrt(raw.shape[2])
        return Told(*self.references.method.without_tiles(raw.unflatten(-1, (grid, grid)), side))

    def _on_one_scale(self, *told: Told) -> Iterator[Tensor]:
        """The mean of maps, and of scores, each as v / (v + level)."""
        for values, levels in zip(zip(*told), zip(*self.levels)):
            yield sum((scaled(one, level) for one, level in zip(values, levels)), torch.zeros(())) / 2

    def _set_levels(self, unknown: Sequence[list[Shown]]) -> None:
        groups = [self._groups(part) for part in unknown]
        alone = [self._alone(probabilities) for probabilities, _ in groups]
        plus = [self._plus(part, alone[0].maps.shape[-1]) for part in unknown]
        self.levels = [levels_of(alone), levels_of(plus)]
        if self.both is not None:
            peaks = torch.tensor([[group.mean(0).max() for group in one] for one in groups])
            self.both.set_levels(peaks.mean(0).tolist())


def levels_of(told: Sequence[Told]) -> list[float]:
    """How high maps and scores come, of single photographs."""
    peaks = torch.stack([one.maps.max() for one in told])
    return [float(peaks.mean()), float(torch.cat([one.scores for one in told]).mean())]
