"""A step of the heads: gradients and running statistics, by one process and by several."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from fdsl.training.step import HeadsStep, losses
from models.methods.fdsl import Fdsl
from utils.config import MethodConfig
from utils.world import World

pytestmark = pytest.mark.usefixtures("one_thread")
BLOCKS, WIDTH = 3, 24


@dataclass(frozen=True)
class Told(World):
    """A process that receives what all of them have found."""

    rows: list[Tensor] = field(default_factory=list)

    def gathered_tensor(self, value: Tensor) -> Tensor:
        assert torch.equal(value, self.rows[self.rank])
        return torch.stack(self.rows)


def method_of(use_nam: bool) -> Fdsl:
    torch.manual_seed(1)
    return Fdsl(WIDTH, BLOCKS, MethodConfig(use_nam=use_nam)).train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(4, 1, 32, 32, generator=generator) > 0.8
    return torch.rand(BLOCKS, 4, 16, WIDTH, generator=generator), mask.float()


def step_of(method: Fdsl, world: World) -> HeadsStep:
    return HeadsStep(method, torch.optim.Adam(method.parameters()), world)


def gradients(method: Fdsl) -> list[Tensor]:
    return [value.grad for value in method.parameters() if value.grad is not None]


@pytest.mark.parametrize("use_nam", [True, False])
def test_block_after_block_a_step_finds_the_losses_gradients_and_statistics_of_all_at_once(use_nam):
    features, mask = batch()
    plain, ours = method_of(use_nam), method_of(use_nam)
    focal, dice = losses(plain(features), mask)
    (focal + dice).backward()
    step = step_of(ours, World())
    assert step(features, mask) == pytest.approx((focal.item(), dice.item()), rel=1e-5) and step.finite
    for found, wanted in zip(gradients(ours), gradients(plain), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)
    assert all(map(torch.equal, ours.buffers(), plain.buffers()))


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_several_processes_find_the_bits_of_one(processes):
    features, mask = batch()
    alone = method_of(True)
    wanted = step_of(alone, World())(features, mask)
    rows = []
    for rank in range(processes):
        step = step_of(method_of(True), World(rank, processes))
        rows.append(step._own_layers(features, mask))
    for rank in range(processes):
        method = method_of(True)
        assert step_of(method, Told(rank, processes, rows=rows))(features, mask) == wanted
        assert all(map(torch.equal, gradients(method), gradients(alone)))
        assert all(map(torch.equal, method.buffers(), alone.buffers()))
