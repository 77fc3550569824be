"""A training's batches in their order, from one process or several.

Several processes go through an epoch in rounds. In a round each process encodes and matches a whole batch of
its own. Then all processes get the batches of the round one by one, so that no more than two are in memory at
once. The frozen encoder does not depend on the heads, so it may run ahead of their steps. Every process takes
every step (fdsl/training/step.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.dataset import EpochSampler, TrainingDataset, make_loader
from fdsl.training.step import DiscrepancySource
from utils.device import sent, worker_count
from utils.world import World


@dataclass(frozen=True)
class Prepared:
    """A batch for the heads: discrepancies (L,B,N,C) and masks (B,1,S,S) on the device, and the images'
    paths."""

    features: Tensor
    mask: Tensor
    paths: list[str]


class Batches:
    """The prepared batches of a training, epoch by epoch."""

    def __init__(
        self,
        dataset: TrainingDataset,
        source: DiscrepancySource,
        batch_size: int,
        seed: int,
        workers: int | None,
        world: World,
    ) -> None:
        self.dataset, self.source, self.batch_size, self.world = dataset, source, batch_size, world
        self.sampler = EpochSampler(len(dataset), seed, batch_size, world.rank, world.size)
        on_gpu = source.backbone.device.type == "cuda"
        self.loader = make_loader(dataset, batch_size, worker_count(workers), self.sampler, on_gpu)

    def of(self, epoch: int, done: int) -> Iterator[Prepared]:
        """The batches of an epoch after the first `done`."""
        self.sampler.set_epoch(epoch, start=done * self.batch_size)
        if self.world.size == 1:
            for batch in self.loader:
                yield Prepared(self.source(batch), self._on_device(batch["mask"]), batch["path"])
            return
        loaded, keys = iter(self.loader), self.sampler.keys()
        batches = [keys[start : start + self.batch_size] for start in range(0, len(keys), self.batch_size)]
        for first in range(0, len(batches), self.world.size):
            round_ = batches[first : first + self.world.size]
            own = next(loaded) if self.world.rank < len(round_) else None
            yield from self._of_round(round_, own)

    def _of_round(self, keys: list[list[int]], own: dict[str, Any] | None) -> Iterator[Prepared]:
        """The round's batches in their order; where one overflows, it and those after it are computed in
        float32, as by one process."""
        discrepancies, mask = self._own_discrepancies(own), self._own_masks(own)
        for number, of_batch in enumerate(keys):
            count = len(of_batch)
            paths = [self.dataset.records[key % len(self.dataset)].image_path for key in of_batch]
            features = self.world.tensor_of(number, discrepancies)[:, :count]
            if self.source.overflowed(features):
                self.source.fall_back(paths)
                discrepancies = self._own_discrepancies(own)
                features = self.world.tensor_of(number, discrepancies)[:, :count]
            yield Prepared(features.contiguous(), self.world.tensor_of(number, mask)[:count], paths)

    def _own_discrepancies(self, own: dict[str, Any] | None) -> Tensor:
        """This process's discrepancies (L,B,N,C), with zeros where it has no image."""
        device = self.source.backbone.device
        value = torch.zeros(self.source.shape_of(self.batch_size), device=device)
        if own is not None:
            value[:, : len(own["path"])] = self.source.discrepancy(own)
        return value

    def _own_masks(self, own: dict[str, Any] | None) -> Tensor:
        side = self.source.image_size
        value = torch.zeros((self.batch_size, 1, side, side), device=self.source.backbone.device)
        if own is not None:
            value[: len(own["path"])] = self._on_device(own["mask"])
        return value

    def _on_device(self, mask: Tensor) -> Tensor:
        return sent(mask, self.source.backbone.device)
