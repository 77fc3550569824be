"""What a training step is made of: where the heads' discrepancies come from, and their losses and gradients.

Both go on where memory is short, and the first falls back to float32 where values overflow.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.dataset import InspectionDataset
from data.records import Record
from models.backbone import Backbone
from models.discrepancy import feature_discrepancy
from models.features import Features
from models.losses import map_losses
from models.memory_bank import MemoryBank
from models.methods.fdsl import Fdsl, Maps
from utils.config import MethodConfig
from utils.log import progress
from utils.memory import Halving, sparing
from utils.text import printable

logger = logging.getLogger("fdsl")


class DiscrepancySource:
    """The frozen backbone and every category's memory bank, in one precision: float32 from the first overflow
    on.

    `load(dtype)` gives the backbone in another precision. Too little memory for a batch: it is encoded in
    halves.
    """

    def __init__(
        self,
        load: Callable[[torch.dtype], Backbone],
        backbone: Backbone,
        options: MethodConfig,
        root: Path,
        references: dict[str, list[Record]],
        image_size: int,
        max_pixels: int,
    ) -> None:
        self.load, self.options, self.image_size = load, options, image_size
        self.shots = {
            category: InspectionDataset(root, drawn, image_size, max_pixels=max_pixels)
            for category, drawn in references.items()
        }
        self.use(backbone)

    def use(self, backbone: Backbone) -> None:
        """Encodes the references anew with `backbone`: category -> memory bank (L,K*N,C)."""
        self.backbone, self.encode = backbone, Halving(_encoder(backbone), join_features)
        self.banks = {}
        for category, shots in progress(self.shots.items(), len(self.shots), "references"):
            parts = (self.encode(shots[index]["image"][None]) for index in range(len(shots)))
            count = len(shots) * backbone.grid(self.image_size) ** 2
            self.banks[category] = MemoryBank.collected(parts, count)

    def use_float32(self) -> None:
        self.use(self.load(torch.float32))

    @property
    def precision(self) -> str:
        return str(self.backbone.dtype).removeprefix("torch.")

    def __call__(self, batch: dict) -> Tensor:
        """A batch's discrepancies (L,B,N,C), each image against its own category's bank."""
        found = self.discrepancy(batch)
        if self.overflowed(found):
            self.fall_back(batch["path"])
            found = self.discrepancy(batch)
        return found

    def overflowed(self, found: Tensor) -> bool:
        """Whether float32 may mend what was found."""
        return self.backbone.dtype != torch.float32 and not bool(torch.isfinite(found).all())

    def fall_back(self, paths: Sequence[str]) -> None:
        """Goes on in float32 from the batch of these images on."""
        logger.warning(
            "Values overflowed in %s (images %s): the training goes on in float32.",
            self.precision,
            printable(", ".join(paths)),
        )
        self.use_float32()

    def shape_of(self, images: int) -> tuple[int, int, int, int]:
        """(L,B,N,C) of so many images."""
        patches = self.backbone.grid(self.image_size) ** 2
        return len(self.backbone.layers), images, patches, self.backbone.width

    @torch.no_grad()
    def discrepancy(self, batch: dict) -> Tensor:
        """The same in the precision that is in use, finite or not."""
        tokens = self.encode(batch["image"]).tokens
        if self.options.fd == "none":
            return feature_discrepancy(tokens, None, "none")
        found = [
            self._against(self.banks[category], tokens[:, index])
            for index, category in enumerate(batch["category"])
        ]
        return torch.stack(found, dim=1)

    def _against(self, bank: MemoryBank, tokens: Tensor) -> Tensor:
        """One image's tokens (L,N,C) -> discrepancies (L,N,C)."""
        return bank.discrepancy(tokens, bank.index(tokens, self.options.align), self.options.fd)


def _encoder(backbone: Backbone) -> Callable[[Tensor], Features]:
    """Pixels (B,3,S,S) uint8 -> features."""
    return lambda pixels: backbone.encode(backbone.normalise(pixels))


def join_features(parts: Sequence[Features]) -> Features:
    return Features(torch.cat([part.tokens for part in parts], dim=1), None)


class HeadsStep:
    """Losses and gradients of the heads for a batch; the optimizer's step is the caller's.

    Where memory does not hold all blocks' heads at once they take turns: batch statistics stay those of the
    whole batch, and gradients add up to the same sums.
    """

    def __init__(self, method: Fdsl, optimizer: torch.optim.Optimizer) -> None:
        self.method, self.optimizer = method, optimizer
        self.in_turn = self.finite = False

    def __call__(self, features: Tensor, mask: Tensor) -> tuple[float, float]:
        """Discrepancies (L,B,N,C) and masks (B,1,S,S) -> focal and dice loss, summed over blocks and maps.

        `finite` says whether the loss and every gradient are.
        """
        before = [value.clone() for value in self.method.buffers()]

        def attempt() -> tuple[float, float]:
            self.optimizer.zero_grad(set_to_none=True)
            focal = dice = 0.0
            for maps in self._maps(features):
                one, other = losses(maps, mask)
                (one + other).backward()
                focal, dice = focal + one.item(), dice + other.item()
            return focal, dice

        focal, dice = sparing(attempt, lambda: self._take_turns(before))
        gradients = [value.grad.norm() for value in self.method.parameters() if value.grad is not None]
        self.finite = math.isfinite(focal + dice) and bool(torch.stack(gradients).isfinite().all())
        return focal, dice

    def _maps(self, features: Tensor) -> Iterator[Maps]:
        if not self.in_turn:
            yield self.method(features)
            return
        grid = math.isqrt(features.shape[2])
        for index, head in enumerate(self.method.heads):
            raw = head(features[index : index + 1]).softmax(dim=-1)[..., 1].unflatten(-1, (grid, grid))
            yield self.method.maps_of(raw)

    def _take_turns(self, before: Sequence[Tensor]) -> bool:
        if self.in_turn:
            return False
        for value, kept in zip(
            self.method.buffers(), before
        ):  # running statistics: the first attempt moved them
            value.copy_(kept)
        logger.warning("Out of memory in the heads: going on with one block's head at a time.")
        self.in_turn = True
        return True


def losses(maps: Maps, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss, each summed over blocks and over raw and refined maps."""
    parts = [map_losses(part, mask) for part in maps if part is not None]
    return torch.stack([focal.sum() for focal, _ in parts]).sum(), torch.stack(
        [dice.sum() for _, dice in parts]
    ).sum()
