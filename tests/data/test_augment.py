"""Augmentations and loaders: what a batch holds, and that nothing but seed, epoch and index decides it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.augment import mosaic, random_crop
from data.dataset import EpochSampler, InspectionDataset, TrainingDataset, make_loader
from data.images import open_image
from data.masks import open_mask
from data.photographs import image_to_pixels, mask_to_tensor
from data.records import Record
from tests.support.photographs import save
from utils.config import AUGMENTATIONS
from utils.errors import DataError
from utils.limits import allow_pixels

pytestmark = pytest.mark.usefixtures("one_thread")


def textured(root: Path, n: int = 9, side: int = 120, square: int = 8) -> list[Record]:
    """n images of noise, every third one normal; a defect's mask and its saturated red square agree."""
    random, records = np.random.default_rng(0), []
    for i in range(n):
        anomalous = i % 3 > 0
        photo = random.integers(0, 140, (side, side, 3), np.uint8)
        mask = np.zeros((side, side), np.uint8)
        if anomalous:
            top, left = random.integers(0, side - square, 2)
            photo[top : top + square, left : left + square] = (255, 0, 0)
            mask[top : top + square, left : left + square] = 3
        save(root / f"{i}.png", photo)
        save(root / f"{i}_mask.png", mask)
        records.append(
            Record(
                f"{i}.png",
                f"{i}_mask.png" if anomalous else "",
                "cup",
                "hole" if anomalous else "good",
                anomalous,
            )
        )
    return records


def red(image: torch.Tensor) -> torch.Tensor:
    values = image.float()
    return ((values[0] > 200) & (values[1] < 90) & (values[2] < 90))[None]


def test_batches_keep_their_contract(tmp_path):
    records = textured(tmp_path)
    batch = next(iter(make_loader(InspectionDataset(tmp_path, records, 56), 4)))
    assert batch["views"].whole.shape == (4, 3, 56, 56) and batch["views"].whole.dtype == torch.uint8
    assert batch["mask"].shape == (4, 1, 56, 56) and batch["mask"].unique().tolist() == [0, 1]
    assert batch["category"] == ["cup"] * 4 and batch["path"] == [r.image_path for r in records[:4]]
    assert batch["mask"].flatten(1).any(1).tolist() == [r.anomalous for r in records[:4]]
    item = InspectionDataset(tmp_path, records, 56)[1]
    assert torch.equal(item["views"].whole[0], image_to_pixels(open_image(tmp_path / "1.png"), 56))
    assert torch.equal(item["mask"], mask_to_tensor(open_mask(tmp_path / "1_mask.png"), 56))


def test_without_augmentation_training_sees_the_images_as_they_are(tmp_path):
    records = textured(tmp_path)
    plain, training = InspectionDataset(tmp_path, records, 56), TrainingDataset(tmp_path, records, 56, "none")
    for index in range(len(records)):
        assert torch.equal(training[index + 7 * len(records)]["image"], plain[index]["views"].whole[0])
        assert torch.equal(training[index]["mask"], plain[index]["mask"])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_workers_and_resumption_change_nothing(tmp_path, augmentation):
    dataset = TrainingDataset(tmp_path, textured(tmp_path), 56, augmentation, seed=5)
    sampler = EpochSampler(len(dataset), seed=5)
    alone, together = make_loader(dataset, 2, 0, sampler), make_loader(dataset, 2, 2, sampler)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(list(alone))
        assert same(epochs[-1], list(together))
    assert sorted(p for batch in epochs[0] for p in batch["path"]) == sorted(
        r.image_path for r in dataset.records
    )
    assert [b["path"] for b in epochs[0]] != [b["path"] for b in epochs[1]]
    sampler.set_epoch(2, start=4)
    assert same(list(together), epochs[2][2:])


def same(batches: list[dict], others: list[dict]) -> bool:
    return len(batches) == len(others) and all(
        a["path"] == b["path"] and torch.equal(a["image"], b["image"]) and torch.equal(a["mask"], b["mask"])
        for a, b in zip(batches, others)
    )


def test_loading_leaves_the_global_random_state_alone(tmp_path):
    dataset = TrainingDataset(tmp_path, textured(tmp_path), 28, "crop")
    before = torch.get_rng_state()
    list(make_loader(dataset, 2, 0, EpochSampler(len(dataset))))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("augmentation, share", [("mosaic", 0.3), ("crop", 0.6 * (2 / 3 + 1 / 3 * 0.5))])
def test_augmentations_come_as_often_as_published_and_differ_by_epoch_and_seed(tmp_path, augmentation, share):
    records = textured(tmp_path)
    plain = [image["views"].whole[0] for image in InspectionDataset(tmp_path, records, 120)]
    seen = []
    for seed in (0, 1):
        dataset = TrainingDataset(tmp_path, records, 120, augmentation, seed)
        seen.append([not torch.equal(dataset[key]["image"], plain[key % 9]) for key in range(9 * 25)])
    assert abs(np.mean(seen) - share) < 0.08
    assert seen[0] != seen[1] and seen[0][:9] != seen[0][9:18]


@pytest.mark.parametrize("augmentation", ["mosaic", "crop"])
def test_masks_follow_their_images(tmp_path, augmentation):
    dataset, inside = TrainingDataset(tmp_path, textured(tmp_path, square=40), 120, augmentation), 0
    pool = torch.nn.functional.max_pool2d
    for key in range(9 * 4):
        mask = dataset[key]["mask"]
        assert set(mask.unique().tolist()) <= {0, 1}
        clear = pool(mask, 11, 1, 5) == -pool(-mask, 11, 1, 5)  # away from the defect's edge
        assert (red(dataset[key]["image"]) == (mask > 0))[clear].all()
        inside += bool((mask > 0)[clear].any())
    assert inside > 9


def test_crops_hold_part_of_the_defect(tmp_path):
    random = np.random.default_rng(3)
    photo = torch.from_numpy(random.integers(0, 255, (3, 224, 224), np.uint8))
    sides = set()
    for trial in range(200):
        mask = torch.zeros(1, 224, 224)
        top, left = random.integers(0, 224, 2)
        mask[0, top, left] = 1
        generator = torch.Generator().manual_seed(trial)
        image, cropped = random_crop(photo, mask, True, generator)
        assert image.shape == photo.shape and image.dtype == torch.uint8 and cropped.shape == mask.shape
        rows = int(cropped.any(2).sum())
        assert 1 <= rows <= 5, "one pixel becomes 224/50 or 224/100 pixels"
        sides.add(50 if rows >= 4 else 100)
        assert type(image) is torch.Tensor and type(cropped) is torch.Tensor
    assert sides == {50, 100}


def test_crops_are_the_published_ones():
    ramp = (
        torch.arange(448)
        .clamp(max=447)
        .view(1, 1, -1)
        .expand(3, 448, 448)
        .div(2, rounding_mode="floor")
        .byte()
    )
    widths = {True: [], False: []}
    for anomalous in (True, False):
        for trial in range(300):
            image, _ = random_crop(
                ramp, torch.ones(1, 448, 448), anomalous, torch.Generator().manual_seed(trial)
            )
            spread = int(image[0, 200].max()) - int(image[0, 200].min())
            widths[anomalous].append(min((50, 100, 448), key=lambda width: abs(width / 2 - spread)))
    shares = {a: [np.mean(np.array(w) == width) for width in (50, 100, 448)] for a, w in widths.items()}
    assert np.allclose(shares[True], [0.6, 0.4, 0], atol=0.08) and np.allclose(
        shares[False], [0, 0.5, 0.5], atol=0.08
    )


@pytest.mark.parametrize("side", [28, 50, 99])
def test_crops_of_small_images_are_clamped(side):
    photo, mask = torch.zeros(3, side, side, dtype=torch.uint8), torch.zeros(1, side, side)
    mask[0, side - 1, 0] = 1
    for trial in range(20):
        image, cropped = random_crop(photo, mask, True, torch.Generator().manual_seed(trial))
        assert image.shape == photo.shape and cropped.any()
    assert torch.equal(random_crop(photo, mask * 0, True, torch.Generator())[1], mask * 0), (
        "nothing left to crop to"
    )


@pytest.mark.parametrize("size", [448, 57])
def test_mosaic_places_every_tile_with_its_mask(size):
    tiles = []
    for i, shape in enumerate(((30, 20), (20, 30), (7, 7), (64, 64))):
        mask = Image.new("L", shape, 255) if i in (1, 2) else None
        tiles.append((Image.new("RGB", shape, (40 * i + 20,) * 3), mask))
    image, mask = mosaic(tiles, size)
    assert image.shape == (3, size, size) and mask.shape == (1, size, size)
    first, second = slice(0, size // 2), slice(size // 2, size)
    for i, (rows, columns) in enumerate(((first, first), (first, second), (second, first), (second, second))):
        assert (image[:, rows, columns] == 40 * i + 20).all()
        assert (mask[:, rows, columns] == (i in (1, 2))).all()


def test_mosaics_stay_inside_the_category(tmp_path):
    records = []
    for category, value in (("dark", 10), ("light", 240)):
        for i in range(4):
            save(tmp_path / f"{category}{i}.png", value)
            records.append(Record(f"{category}{i}.png", "", category, "good", False))
    dataset = TrainingDataset(tmp_path, records, 28, "mosaic")
    for key in range(8 * 10):
        values = dataset[key]["image"].float()
        assert abs(values - (10 if dataset[key]["category"] == "dark" else 240)).max() < 1


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_workers_arrive_as_their_own_sentence(tmp_path, workers):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    dataset = InspectionDataset(tmp_path, [Record("broken.png", "", "cup", "good", False)], 28)
    with pytest.raises(DataError) as caught:
        list(make_loader(dataset, 1, workers))
    assert str(caught.value).startswith(str(tmp_path / "broken.png")) and "\n" not in str(caught.value)
    allow_pixels(100)
    limited = InspectionDataset(
        tmp_path, [Record(save(tmp_path / "a.png").name, "", "cup", "good", False)], 28
    )
    with pytest.raises(DataError, match="a.png: 12x10 px is above the limit of 100 pixels"):
        list(make_loader(limited, 1, workers))
