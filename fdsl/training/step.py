"""A training step: the discrepancies that the heads are trained on, and the heads' losses and gradients.

Discrepancies are computed in smaller batches where memory is short, and in float32 after an overflow.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from data.dataset import InspectionDataset
from fdsl.training.setup import PreparedTraining
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
    """Discrepancies from the frozen backbone and every category's memory bank, in one precision: float32 from
    the first overflow on. A batch that does not fit into memory is encoded in halves."""

    def __init__(self, prepared: PreparedTraining) -> None:
        plan, training_set = prepared.plan, prepared.training_set
        self.load, self.options, self.image_size = prepared.load, plan.options, plan.backbone.image_size
        self.shots = {
            category: InspectionDataset(
                training_set.root, references, self.image_size, max_pixels=plan.max_pixels
            )
            for category, references in training_set.references.items()
        }
        self.use(prepared.backbone)

    def use(self, backbone: Backbone) -> None:
        """Sets the backbone and encodes the references with it: category -> memory bank (L,K*N,C)."""
        self.backbone, self.encode = backbone, Halving(backbone.encode, join_features)
        self.banks = {}
        for category, shots in progress(self.shots.items(), len(self.shots), "references"):
            features = (self.encode(shots[index]["image"][None]) for index in range(len(shots)))
            sizes = [[backbone.grid(self.image_size) ** 2]] * len(shots)
            self.banks[category] = MemoryBank.collected(features, sizes)

    def use_float32(self) -> None:
        self.use(self.load(torch.float32))

    @property
    def precision(self) -> str:
        return str(self.backbone.dtype).removeprefix("torch.")

    def __call__(self, batch: dict) -> Tensor:
        """A batch's discrepancies (L,B,N,C), each image against its own category's bank."""
        values = self.discrepancy(batch)
        if self.overflowed(values):
            self.fall_back(batch["path"])
            values = self.discrepancy(batch)
        return values

    def overflowed(self, discrepancies: Tensor) -> bool:
        """Whether values are not finite, in a precision narrower than float32."""
        return self.backbone.dtype != torch.float32 and not bool(torch.isfinite(discrepancies).all())

    def fall_back(self, paths: Sequence[str]) -> None:
        """Changes to float32 from the batch of these images on, with a warning."""
        logger.warning(
            "Values overflowed in %s (images %s): the training goes on in float32.",
            self.precision,
            printable(", ".join(paths)),
        )
        self.use_float32()

    def shape_of(self, images: int) -> tuple[int, int, int, int]:
        """(L,B,N,C), the shape of the discrepancies of so many images."""
        patches = self.backbone.grid(self.image_size) ** 2
        return len(self.backbone.layers), images, patches, self.backbone.width

    @torch.no_grad()
    def discrepancy(self, batch: dict) -> Tensor:
        """The same in the current precision, finite or not."""
        tokens = self.encode(batch["image"]).tokens
        if self.options.fd == "none":
            return feature_discrepancy(tokens, None, "none")
        of_images = []
        for index, category in enumerate(batch["category"]):
            bank, own = self.banks[category], tokens[:, index]
            of_images.append(bank.discrepancy(own, bank.index(own, self.options.align), self.options.fd))
        return torch.stack(of_images, dim=1)


def join_features(parts: Sequence[Features]) -> Features:
    return Features(torch.cat([part.tokens for part in parts], dim=1), None)


class HeadsStep:
    """Losses and gradients of the heads for a batch; the optimizer's step is the caller's.

    They are computed layer by layer: a feature layer's head and maps depend on no other layer, and the
    gradient of the shared NAM is the sum over layers in their order. The layers are shared out among the
    processes of a `world`, which then exchange the results.
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
        """Discrepancies (L,B,N,C) and masks (B,1,S,S) -> focal and dice loss, summed over layers and maps.

        `finite` is set to whether the loss and every gradient are. ConfigError where memory does not hold a
        layer.
        """
        own = sparing(lambda: self._own_layers(features, mask), lambda: False)
        gathered = self.world.gathered_tensor(own).transpose(0, 1).flatten(0, 1)
        self.optimizer.zero_grad(set_to_none=True)
        focal = dice = 0.0
        rows = gathered[: len(self.method.heads)]
        for index, (values, (one, other)) in enumerate(zip(rows, rows[:, :2].tolist())):
            focal, dice = focal + one, dice + other
            self._take(index, values[2:])
        gradients = [value.grad for value in self.method.parameters() if value.grad is not None]
        self.finite = math.isfinite(focal + dice) and bool(get_total_norm(gradients).isfinite())
        return focal, dice

    def _own_layers(self, features: Tensor, mask: Tensor) -> Tensor:
        """A row for each layer of this process (ceil(L / size),P): losses, gradients and running statistics;
        zeros where it has no layer."""
        layers, size = len(self.method.heads), self.world.size
        length = 2 + sum(value.numel() for value in self._trained_values(self.method.heads[0]))
        rows = torch.zeros(math.ceil(layers / size), length, device=features.device)
        for row, index in zip(rows, range(self.world.rank, layers, size)):
            torch.cat(self._of_layer(index, features[index : index + 1], mask), out=row)
        return rows

    def _of_layer(self, index: int, features: Tensor, mask: Tensor) -> list[Tensor]:
        """A layer's discrepancies (1,B,N,C) -> its losses, gradients and running statistics, flat."""
        head = self.method.heads[index]
        grid = math.isqrt(features.shape[2])
        raw = head(features).softmax(dim=-1)[..., 1].unflatten(-1, (grid, grid))
        focal, dice = losses(self.method.maps_of(raw), mask)
        gradients = torch.autograd.grad(focal + dice, [*head.parameters(), *self.shared])
        both = torch.stack([focal, dice]).detach()
        return [value.flatten() for value in (both, *gradients, *_running_statistics(head))]

    def _trained_values(self, head: nn.Module) -> list[Tensor]:
        """The parameters and running statistics whose gradients and values follow the losses in a row."""
        return [*head.parameters(), *self.shared, *_running_statistics(head)]

    def _take(self, index: int, row: Tensor) -> None:
        """Sets the gradients of a layer's head and adds those of the NAM; also sets running statistics that
        another process has computed."""
        head = self.method.heads[index]
        targets = self._trained_values(head)
        flat = row.split([target.numel() for target in targets])
        values = [value.view_as(target) for value, target in zip(flat, targets)]
        count = len(list(head.parameters())) + len(self.shared)
        for parameter, gradient in zip(targets[:count], values[:count]):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        if index % self.world.size != self.world.rank:
            for statistic, value in zip(targets[count:], values[count:]):
                statistic.copy_(value)
            for name, counter in head.named_buffers():
                if name.endswith(COUNTER):
                    counter += 1


COUNTER = "num_batches_tracked"  # of a BatchNorm, with its running statistics


def _running_statistics(head: nn.Module) -> list[Tensor]:
    return [value for name, value in head.named_buffers() if not name.endswith(COUNTER)]


def losses(maps: Maps, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss, each summed over layers and over raw and refined maps."""
    focal, dice = zip(*(map_losses(one, mask) for one in maps if one is not None))
    return torch.stack([one.sum() for one in focal]).sum(), torch.stack([one.sum() for one in dice]).sum()
