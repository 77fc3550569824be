"""A step of the heads: losses, gradients and running statistics."""

import pytest
import torch
from torch import Tensor

from fdsl.training.step import HeadsStep, losses
from models.methods.fdsl import Fdsl
from tests.support.plain import maps_of_all_heads
from utils.config import MethodConfig

pytestmark = pytest.mark.usefixtures("one_thread")
BLOCKS, WIDTH = 3, 24


def method_of(use_nam: bool) -> Fdsl:
    torch.manual_seed(1)
    return Fdsl(WIDTH, BLOCKS, MethodConfig(use_nam=use_nam)).train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(4, 1, 32, 32, generator=generator) > 0.8
    return torch.rand(BLOCKS, 4, 16, WIDTH, generator=generator), mask.float()


def gradients(method: Fdsl) -> list[Tensor]:
    return [value.grad for value in method.parameters() if value.grad is not None]


@pytest.mark.parametrize("use_nam", [True, False])
def test_block_after_block_a_step_finds_the_losses_gradients_and_statistics_of_all_at_once(use_nam):
    features, mask = batch()
    plain, ours = method_of(use_nam), method_of(use_nam)
    focal, dice = losses(maps_of_all_heads(plain, features), mask)
    (focal + dice).backward()
    step = HeadsStep(ours, torch.optim.Adam(ours.parameters()))
    assert step(features, mask) == pytest.approx((focal.item(), dice.item()), rel=1e-5) and step.finite
    for found, wanted in zip(gradients(ours), gradients(plain), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)
    assert all(map(torch.equal, ours.buffers(), plain.buffers()))
