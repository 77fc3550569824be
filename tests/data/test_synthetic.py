"""Drawn defects: what is drawn is what the mask says, of all sizes and kinds; the seed alone decides it."""

import pytest
import torch

from data.augment import LARGEST, VISIBLE, add_defect
from data.dataset import TrainingDataset
from data.records import Record
from tests.support.photographs import save

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two of noise, one dark and one bright."""
    noise = torch.randint(0, 60, (2, 3, SIDE, SIDE), generator=seeded(0), dtype=torch.uint8)
    return noise[0] + 20, noise[1] + 180


def test_the_mask_holds_what_can_be_seen():
    good, foreign = photographs()
    kept = good.clone()
    for seed in range(40):
        drawn, mask = add_defect(good, foreign, seeded(seed))
        assert drawn.dtype == torch.uint8 and drawn.shape == good.shape and mask.shape == (1, SIDE, SIDE)
        change = (drawn.float() - good.float()).abs().mean(0, keepdim=True)
        assert torch.equal(mask, (change >= VISIBLE).float()) and mask.any()
    assert torch.equal(good, kept)


def test_defects_are_small_and_large_thick_and_thin():
    good, foreign = photographs()
    masks = [add_defect(good, foreign, seeded(seed))[1] for seed in range(200)]
    share = torch.stack([mask.mean() for mask in masks])
    assert share.max() < 2 * LARGEST and share.min() < 0.002
    assert (share < 0.01).float().mean() > 0.2 and (share > 0.02).float().mean() > 0.1
    fill = torch.stack([mask.sum() / bounding_box(mask) for mask in masks])
    assert (fill < 0.25).float().mean() > 0.1, "thin lines"
    assert (fill > 0.6).float().mean() > 0.2, "patches and spots"


def bounding_box(mask: torch.Tensor) -> int:
    """Pixels of the smallest upright rectangle around a mask."""
    rows, columns = mask[0].nonzero(as_tuple=True)
    return int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))


def test_fillings_are_of_the_photograph_of_another_and_of_another_brightness():
    good, foreign = torch.full((3, SIDE, SIDE), 100, dtype=torch.uint8), photographs()[1]
    good[:, : SIDE // 2] = 40
    found = dict.fromkeys(("foreign", "own", "shade"), 0)
    for seed in range(120):
        drawn, mask = add_defect(good, foreign, seeded(seed))
        inside = drawn[:, mask[0] > 0]
        if (inside != inside[0]).any():  # the photograph itself is grey, the other one is not
            found["foreign"] += 1
        elif inside.min() >= 40 and inside.max() <= 100:
            found["own"] += 1
        else:
            found["shade"] += 1
    assert min(found.values()) > 20, found


def test_where_nothing_can_be_seen_the_photograph_stays_good():
    black = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    drawn, mask = add_defect(black, black, seeded(0))
    assert torch.equal(drawn, black) and not mask.any()


def test_the_seed_alone_decides():
    good, foreign = photographs()
    first, again, other = (add_defect(good, foreign, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_half_of_the_good_photographs_get_one_and_defective_ones_stay(tmp_path):
    for number, photo in enumerate(photographs()):
        save(tmp_path / f"{number}.png", photo.permute(1, 2, 0).numpy())
    save(tmp_path / "mask.png", (torch.eye(SIDE) * 255).byte().numpy())
    records = [Record("0.png", "", "cup", "good", False), Record("1.png", "mask.png", "cup", "hole", True)]
    dataset = TrainingDataset(tmp_path, records, SIDE, "synthetic", seed=1)
    good = [dataset[2 * epoch] for epoch in range(40)]
    assert 10 < sum(bool(one["mask"].any()) for one in good) < 30
    assert all(torch.equal(one["mask"], dataset[1]["mask"]) for one in (dataset[2 * n + 1] for n in range(5)))
