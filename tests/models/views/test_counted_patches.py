"""Which patches count: by a region of interest of all photographs, or by their own masks."""

from types import SimpleNamespace

import torch

from models.views.counted_patches import CountedPatches, counting
from tests.support.tokens import noise

CPU = torch.device("cpu")
HALVES = torch.zeros(2, 8, 8, dtype=torch.uint8)
HALVES[0, :, :4] = HALVES[1, :4] = 255  # the left half, the upper half


def test_a_patch_counts_by_the_larger_part_of_its_area():
    roi = torch.zeros(8, 8, dtype=torch.uint8)
    roi[:, :3] = 255
    counted = CountedPatches(roi, CPU)
    assert counted.of_grid(2, 2).tolist() == [[True, False]] * 2  # three of four columns, and none
    assert counted.of_grid(4, 4)[0].tolist() == [True, True, False, False]  # of the second patch just half
    assert counted.of_grid(4, 4) is counted.of_grid(4, 4)


def test_everything_counts_without_a_region():
    maps = torch.rand(3, 2, 4, 4)
    everywhere = CountedPatches(None, CPU)
    assert everywhere.of_grid(4, 4).all() and everywhere.only(maps, None) is maps


def test_own_masks_stand_in_for_the_region():
    maps = torch.ones(3, 2, 4, 4)
    counted = CountedPatches(HALVES[0], CPU)
    assert (counted.only(maps, None).sum((0, 1)) == torch.tensor([6.0, 6, 0, 0])).all()
    own = counted.only(maps, HALVES)
    assert torch.equal(own, maps * counting(HALVES, 4, 4)) and own[0, 1, :2].all() and not own[0, 1, 2:].any()


def test_a_mask_on_an_apple_gpu_is_pooled_by_the_cpu():
    """It pools no sizes that do not divide, as 518 pixels of 72 patches."""
    masks = (noise(2, 518, 518) > 127).to(torch.uint8) * 255
    there = SimpleNamespace(device=torch.device("mps"), cpu=lambda: masks)
    assert torch.equal(counting(there, 72, 72), counting(masks, 72, 72))
