"""Views: parts, moves and digests of photographs."""

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from tests.support.tokens import noise
from utils.views import Views


@pytest.fixture
def views():
    return Views(noise(5, 3, 8, 8), noise(5, 4, 3, 8, 8, seed=1), noise(5, 8, 8, seed=2))


def same(one, other):
    return all(torch.equal(*pair) for pair in zip(one._each(torch.clone), other._each(torch.clone)))


def test_parts_hold_their_own_photographs(views):
    parts = views.split(2)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert same(Views.joined(parts), views)
    assert torch.equal(views[[3, 0]].tiles, views.tiles[[3, 0]])
    whole = Views.joined([Views(views.whole[:2]), Views(views.whole[2:])])
    assert torch.equal(whole.whole, views.whole) and whole.tiles is whole.roi is None


def test_digests_are_of_the_pixels_and_computed_once_where_the_images_lay_first(views, monkeypatch):
    looked, numpy = [], torch.Tensor.numpy
    monkeypatch.setattr(torch.Tensor, "numpy", lambda image: looked.append(image) or numpy(image))
    there = views.moved(torch.device("cpu"))
    assert there.source is views and same(there, views)
    wanted = there.digests()
    assert len(set(wanted)) == len(looked) == 5 and there.digests("tiles") != wanted and len(looked) == 10
    assert (
        there[[4, 1]].digests() == [wanted[4], wanted[1]]
        and views[1:3].digests("tiles")
        and len(looked) == 10
    )
    assert Views(views.whole.clone()).digests() == wanted and len(looked) == 15
    other = views.whole.clone()
    other[2, 0, 0, 0] ^= 1
    assert [a == b for a, b in zip(Views(other).digests(), wanted)] == [True, True, False, True, True]


def test_a_loader_pins_the_tensors_of_views(views, monkeypatch):
    """As its thread does for a batch; a machine without a GPU pins nothing."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values, *_: pinned.append(values) or values)
    found = pin_memory({"views": views})["views"]
    assert same(found, views) and [values.shape for values in pinned] == [
        views.whole.shape,
        views.tiles.shape,
        views.roi.shape,
    ]
