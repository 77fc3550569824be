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
from utils.console import progress
from utils.memory import Halving, sparing
from utils.text import printable

logger = logging.getLogger("fdsl")


class DiscrepancySource:
    """Discrepancies from the frozen backbone and every category's memory bank, in one precision: float32 from
    the first overflow on. A batch that does not fit into memory is encoded in halves."""

    def __init__(self, prepared: PreparedTraining) -> None:
        plan, training_set = prepared.plan, prepared.training_set
        self.load, self.options, self.image_size = prepared.load, plan.options, plan.backbone.image_size
        self.shots = {
            category: InspectionDataset(training_set.root, references, self.image_size)
            for category, references in training_set.references.items()
        }
        self.use(prepared.backbone)

    def use(self, backbone: Backbone) -> None:
        """Sets the backbone and encodes the references with it: category -> memory bank (L,K*N,C)."""
        self.backbone, self.encode = backbone, Halving(backbone.encode, join_features)
        self.banks = {}
        for category, shots in progress(self.shots.items(), len(self.shots), "references"):
            features = (self.encode(shots[index]["views"].whole) for index in range(len(shots)))
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

    They are computed layer by layer, so that memory holds the maps of one: a feature layer's head and maps
    depend on no other layer, and the gradient of the shared NAM is the sum over layers in their order.
    """

    def __init__(self, method: Fdsl, optimizer: torch.optim.Optimizer) -> None:
        self.method, self.optimizer = method, optimizer
        self.finite = False

    def __call__(self, features: Tensor, mask: Tensor) -> tuple[float, float]:
        """Discrepancies (L,B,N,C) and masks (B,1,S,S) -> focal and dice loss, summed over layers and maps.

        `finite` is set to whether the loss and every gradient are. ConfigError where memory does not hold a
        layer.
        """
        self.optimizer.zero_grad(set_to_none=True)
        layers = zip(self.method.heads, features)
        of_layers = sparing(lambda: [self._backward(*layer, mask) for layer in layers], lambda: False)
        focal, dice = map(sum, zip(*torch.stack(of_layers).tolist()))
        gradients = [value.grad for value in self.method.parameters() if value.grad is not None]
        self.finite = math.isfinite(focal + dice) and bool(get_total_norm(gradients).isfinite())
        return focal, dice

    def _backward(self, head: nn.Module, features: Tensor, mask: Tensor) -> Tensor:
        """A layer's discrepancies (B,N,C) -> its focal and dice loss (2,); adds its gradients to the
        parameters'."""
        grid = math.isqrt(features.shape[1])
        raw = head(features[None]).softmax(dim=-1)[..., 1].unflatten(-1, (grid, grid))
        focal, dice = losses(self.method.maps_of(raw), mask)
        (focal + dice).backward()
        return torch.stack([focal, dice]).detach()


def losses(maps: Maps, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice loss, each summed over layers and over raw and refined maps."""
    focal, dice = zip(*(map_losses(one, mask) for one in maps if one is not None))
    return torch.stack([one.sum() for one in focal]).sum(), torch.stack([one.sum() for one in dice]).sum()
