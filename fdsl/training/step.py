"""What a training step is made of: where the heads' discrepancies come from, and their losses and gradients.

The first goes on where memory is short, and falls back to float32 where values overflow.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from data.dataset import InspectionDataset
from fdsl.training.setup import Begun
from models.backbone import Backbone
from models.features import Features
from models.losses import map_losses
from models.matching.discrepancy import feature_discrepancy
from models.matching.memory_bank import MemoryBank
from models.methods.fdsl import Fdsl, Maps
from utils.log import progress
from utils.memory import Halving, sparing
from utils.text import printable
from utils.world import World

logger = logging.getLogger("fdsl")


class DiscrepancySource:
    """The frozen backbone and every category's memory bank, in one precision: float32 from the first overflow
    on. Too little memory for a batch: it is encoded in halves."""

    def __init__(self, begun: Begun) -> None:
        plan, training_set = begun.plan, begun.training_set
        self.load, self.options, self.image_size = begun.load, plan.options, plan.backbone.image_size
        self.shots = {
            category: InspectionDataset(training_set.root, drawn, self.image_size, max_pixels=plan.max_pixels)
            for category, drawn in training_set.references.items()
        }
        self.use(begun.backbone)

    def use(self, backbone: Backbone) -> None:
        """Encodes the references anew with `backbone`: category -> memory bank (L,K*N,C)."""
        self.backbone, self.encode = backbone, Halving(backbone.encode, join_features)
        self.banks = {}
        for category, shots in progress(self.shots.items(), len(self.shots), "references"):
            parts = (self.encode(shots[index]["image"][None]) for index in range(len(shots)))
            sizes = [backbone.grid(self.image_size) ** 2] * len(shots)
            self.banks[category] = MemoryBank.collected(parts, sizes)

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


def join_features(parts: Sequence[Features]) -> Features:
    return Features(torch.cat([part.tokens for part in parts], dim=1), None)


class HeadsStep:
    """Losses and gradients of the heads for a batch; the optimizer's step is the caller's.

    Block after block: a block's head and maps depend on no other block, and the gradient of the NAM that they
    share is the sum of theirs in their order. Of the processes of a `world` each takes every so many-th block
    and receives the others.
    """

    def __init__(
        self,
        method: Fdsl,
        optimizer: torch.optim.Optimizer,
        world: World = World(),  # noqa: B008 - frozen
    ) -> None:
        self.method, self.optimizer, self.world = method, optimizer, world
        self.shared = [] if method.nam is None else list(method.nam.parameters())
        self.finite = False

    def __call__(self, features: Tensor, mask: Tensor) -> tuple[float, float]:
        """Discrepancies (L,B,N,C) and masks (B,1,S,S) -> focal and dice loss, summed over blocks and maps.

        `finite` says whether the loss and every gradient are. ConfigError where memory does not hold a block.
        """
        found = sparing(lambda: self._of_own_blocks(features, mask), lambda: False)
        gathered = self.world.gathered_tensor(found).transpose(0, 1).flatten(0, 1)
        self.optimizer.zero_grad(set_to_none=True)
        focal = dice = 0.0
        own = gathered[: len(self.method.heads)]
        for index, (values, (one, other)) in enumerate(zip(own, own[:, :2].tolist())):
            focal, dice = focal + one, dice + other
            self._take(index, values[2:])
        gradients = [value.grad for value in self.method.parameters() if value.grad is not None]
        self.finite = math.isfinite(focal + dice) and bool(get_total_norm(gradients).isfinite())
        return focal, dice

    def _of_own_blocks(self, features: Tensor, mask: Tensor) -> Tensor:
        """This process's blocks, in rows (ceil(L / size),P): losses, gradients and running statistics, and
        zeros where it has no block."""
        blocks, size = len(self.method.heads), self.world.size
        length = 2 + sum(value.numel() for value in self._values_of(self.method.heads[0]))
        rows = torch.zeros(math.ceil(blocks / size), length, device=features.device)
        for row, index in zip(rows, range(self.world.rank, blocks, size)):
            torch.cat(self._of_block(index, features[index : index + 1], mask), out=row)
        return rows

    def _of_block(self, index: int, features: Tensor, mask: Tensor) -> list[Tensor]:
        """A block's discrepancies (1,B,N,C) -> its losses, gradients and running statistics, flat."""
        head = self.method.heads[index]
        grid = math.isqrt(features.shape[2])
        raw = head(features).softmax(dim=-1)[..., 1].unflatten(-1, (grid, grid))
        focal, dice = losses(self.method.maps_of(raw), mask)
        gradients = torch.autograd.grad(focal + dice, [*head.parameters(), *self.shared])
        both = torch.stack([focal, dice]).detach()
        return [part.flatten() for part in (both, *gradients, *_running_statistics(head))]

    def _values_of(self, head: nn.Module) -> list[Tensor]:
        """What a row tells of a block, losses apart: tensors of the shapes of its parts, in their order."""
        return [*head.parameters(), *self.shared, *_running_statistics(head)]

    def _take(self, index: int, values: Tensor) -> None:
        """Gives the head of a block its gradients and the NAM its part of them; where another process has
        moved the head's running statistics, these too."""
        head = self.method.heads[index]
        like = self._values_of(head)
        parts = values.split([value.numel() for value in like])
        received = [part.view_as(value) for part, value in zip(parts, like)]
        trained = len(list(head.parameters())) + len(self.shared)
        for parameter, gradient in zip(like[:trained], received[:trained]):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        if index % self.world.size != self.world.rank:
            for statistic, value in zip(like[trained:], received[trained:]):
                statistic.copy_(value)
            for name, count in head.named_buffers():
                if name.endswith(COUNTER):
                    count += 1


COUNTER = "num_batches_tracked"  # of a BatchNorm, with its running statistics


def _running_statistics(head: nn.Module) -> list[Tensor]:
    return [value for name, value in head.named_buffers() if not name.endswith(COUNTER)]


def losses(maps: Maps, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss, each summed over blocks and over raw and refined maps."""
    parts = [map_losses(part, mask) for part in maps if part is not None]
    return torch.stack([focal.sum() for focal, _ in parts]).sum(), torch.stack(
        [dice.sum() for _, dice in parts]
    ).sum()
