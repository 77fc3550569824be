"""Losses and heads: by hand, and by what training must achieve."""

import pytest
import torch

from fdsl.training.step import HeadsStep
from models.losses import dice_loss, focal_loss, map_losses
from models.matching.discrepancy import feature_discrepancy
from models.methods.fdsl import AnomalyScoreHead, Fdsl, NeighbourAggregation
from models.views.tile_maps import _interpolation, resized


def test_focal_by_hand():
    p, m = torch.tensor([[0.9, 0.2]]), torch.tensor([[1.0, 0.0]])
    p_t = torch.tensor([(1 - 1e-5) * 0.9 + 1e-5 * 0.1 + 1e-5, 1e-5 * 0.2 + (1 - 1e-5) * 0.8 + 1e-5])
    assert focal_loss(p, m).item() == pytest.approx((-((1 - p_t) ** 2) * p_t.log()).mean().item(), rel=1e-6)


def test_dice_by_hand_is_per_image():
    p = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
    m = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    expected = ((1 - 2.0 / 3.0) + (1 - 1.0 / 2.0)) / 2
    assert dice_loss(p, m).item() == pytest.approx(expected)


@pytest.mark.parametrize("count, side", [(37, 518), (5, 5), (7, 20), (1, 4)])
def test_two_products_interpolate_as_pytorch_does_and_so_do_their_gradients(count, side):
    """What a GPU takes in place of `resized`."""
    maps = torch.rand(2, count, count, requires_grad=True)
    weights = _interpolation(count, side, torch.device("cpu"))
    wanted, found = resized(maps, side), weights @ maps @ weights.T
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5)
    pull = torch.rand(2, side, side)
    one, other = (torch.autograd.grad((part * pull).sum(), maps)[0] for part in (wanted, found))
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_perfect_map_costs_nothing_and_a_wrong_one_much():
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, :8] = 1
    right, wrong = mask[None, :, 0], 1 - mask[None, :, 0]
    assert map_losses(right, mask)[0] < 1e-4 and map_losses(right, mask)[1] < 1e-4
    assert map_losses(wrong, mask)[0] > 5 and map_losses(wrong, mask)[1] > 0.9


def test_upsampling_keeps_corners():
    maps = torch.rand(2, 3, 5, 5)
    large = resized(maps, 33)
    assert large.shape == (2, 3, 33, 33)
    assert torch.allclose(large[..., ::32, ::32], maps[..., ::4, ::4], atol=1e-6)


def test_head_has_the_specified_layers():
    head = AnomalyScoreHead(40)
    linears = [layer for layer in head.layers if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linears] == [
        (40, 512),
        (512, 128),
        (128, 32),
        (32, 2),
    ]
    assert [layer.bias is not None for layer in linears] == [False, False, False, True]
    assert isinstance(head.layers[0], torch.nn.BatchNorm1d)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_narrow_discrepancy_changes_the_probability_little(narrow):
    torch.manual_seed(0)
    head = AnomalyScoreHead(64).eval()
    head.layers[0].running_var.uniform_(1e-4, 1e-2)
    discrepancy = torch.rand(3, 50, 64) * 0.2
    exact, found = head(discrepancy), head(discrepancy.to(narrow))
    assert found.dtype == torch.float32 and torch.equal(
        exact, head.layers(discrepancy.flatten(0, 1)).view_as(exact)
    )
    assert 0 < (exact.softmax(-1) - found.softmax(-1)).abs().max() < 0.005


def test_nam_looks_at_neighbours_four_patches_away_and_no_further():
    torch.manual_seed(0)
    nam = NeighbourAggregation()
    raw = torch.full((1, 1, 15, 15), 0.2)
    changed = raw.clone()
    changed[..., 7, 7] = 0.9
    moved = (nam(raw) - nam(changed)).abs()[0, 0] > 0
    assert moved[7, 7] and moved[3:12, 3:12].any() and not moved[:3].any() and not moved[:, 12:].any()


def test_discrepancy_modes():
    tokens, nearest = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, -3.0]])
    assert feature_discrepancy(tokens, nearest).tolist() == [[2, 1]]
    assert feature_discrepancy(tokens, nearest, "signed").tolist() == [[-2, 1]]
    assert feature_discrepancy(tokens, nearest, "context").tolist() == [[3, -1]]
    assert feature_discrepancy(tokens, None, "none").tolist() == [[1, -2]]


def test_heads_learn_to_separate_large_from_small_discrepancies():
    torch.manual_seed(0)
    method = Fdsl(16, 2)
    mask = torch.zeros(4, 1, 32, 32)
    mask[:, :, 8:20, 8:20] = 1
    defect = torch.nn.functional.adaptive_avg_pool2d(mask, 8).flatten(2).transpose(1, 2) > 0.5
    features = torch.rand(2, 4, 64, 16) * 0.3 + defect * 0.5
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    step, losses = HeadsStep(method, optimizer), []
    for _ in range(31):
        losses.append(sum(step(features, mask)))
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    raw = method.eval().probabilities(features).unflatten(-1, (8, 8))
    assert (method.refine(raw)[:, :, 3, 3] > 0.5).all()
