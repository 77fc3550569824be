"""Scanning MVTec AD's and VisA's layouts, the scripts, the augmentations and the loaders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import mvtec, visa
from data.dataset import (AUGMENTATIONS, EpochSampler, InspectionDataset, TrainingDataset, make_loader, mosaic,
                          random_crop)
from data.prepare import run_script
from data.records import DataError, Record, open_catalogue, read_meta
from data.transforms import CLIP_MEAN, CLIP_STD, image_to_tensor, mask_to_tensor, open_image, open_mask

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are slower with threads, above all where cores are few."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save(file: Path, value: int | np.ndarray = 100, size: tuple[int, int] = (12, 10)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(value) if isinstance(value, np.ndarray) else Image.new("L", size, value)).save(file)
    return file


def make_mvtec(root: Path, category: str = "cup") -> Path:
    """Three training images and one good test image, three dents whose masks sort otherwise, one scratch."""
    for name in ("train/good/0.png", "train/good/10.png", "train/good/9.png", "test/good/0.png", "test/dent/2.png",
                 "test/dent/10.png", "test/dent/x.JPG", "test/scratch/0.png", "ground_truth/dent/10_mask.png",
                 "ground_truth/dent/2_mask.png", "ground_truth/dent/x_mask.bmp", "ground_truth/scratch/0_mask.png"):
        save(root / category / name)
    return root


# Scanning ------------------------------------------------------------------------------------------------------------

def counts(records: list[Record]) -> dict[str, int]:
    return {defect: sum(r.defect == defect for r in records) for defect in sorted({r.defect for r in records})}


@real
def test_real_mvtec_folders():
    catalogue = mvtec.scan(SHARED / "mvtec")
    assert catalogue.categories == ["bottle", "tire"]
    assert counts(catalogue.train["bottle"]) == {"good": 16} and counts(catalogue.train["tire"]) == {"good": 12}
    assert counts(catalogue.test["bottle"]) == {"broken_large": 20, "broken_small": 22, "contamination": 21, "good": 20}
    assert counts(catalogue.test["tire"]) == {"combined": 5, "contamination": 14, "cut": 14, "good": 15, "hole": 14}
    for record in catalogue.test["bottle"] + catalogue.test["tire"]:
        category, _, defect, name = record.image_path.split("/")
        wanted = f"{category}/ground_truth/{defect}/{name[:-4]}_mask.png" if defect != "good" else ""
        assert record.mask_path == wanted and (record.defect, record.anomalous) == (defect, defect != "good")
        assert not wanted or (SHARED / "mvtec" / wanted).is_file()


@real
def test_real_visa_folder():
    catalogue = visa.scan(SHARED / "visa")
    assert catalogue.categories == ["magnetic_tile"]
    assert counts(catalogue.train["magnetic_tile"]) == {"good": 40}
    assert counts(catalogue.test["magnetic_tile"]) == {"bad": 118, "good": 50}
    for record in catalogue.test["magnetic_tile"]:
        stem = Path(record.image_path).stem
        assert record.mask_path == (f"magnetic_tile/Data/Masks/Anomaly/{stem}.png" if record.anomalous else "")


@real
def test_small_class_numbers_in_real_masks_are_defect():
    anomalous = [record for record in visa.scan(SHARED / "visa").test["magnetic_tile"] if record.anomalous]
    for record in anomalous[::10]:
        raw = np.array(Image.open(SHARED / "visa" / record.mask_path))
        assert 0 < raw.max() <= 5
        assert (np.array(open_mask(SHARED / "visa" / record.mask_path)) == (raw > 0) * 255).all()


@real
def test_official_visa_split_is_read_for_the_categories_that_are_there(tmp_path):
    save(tmp_path / "candle/Data/Images/Normal/0836.JPG")
    save(tmp_path / "candle/Data/Images/Anomaly/000.JPG")
    catalogue = visa.scan(tmp_path, SHARED / "visa_official_split/1cls.csv")
    mask = "candle/Data/Masks/Anomaly/000.png"
    assert catalogue.train == {"candle": [Record("candle/Data/Images/Normal/0836.JPG", "", "candle", "good", False)]}
    assert catalogue.test == {"candle": [Record("candle/Data/Images/Anomaly/000.JPG", mask, "candle", "bad", True)]}


def test_masks_are_paired_by_name_not_by_order(tmp_path):
    make_mvtec(tmp_path)
    (tmp_path / "cup/ground_truth/dent/2_mask.png").unlink()
    masks = {Path(r.image_path).name: r.mask_path for r in mvtec.scan(tmp_path).test["cup"] if r.defect == "dent"}
    folder = "cup/ground_truth/dent"
    assert masks == {"2.png": "", "10.png": f"{folder}/10_mask.png", "x.JPG": f"{folder}/x_mask.bmp"}


def test_scan_order_is_natural_and_leaves_out_what_is_no_image(tmp_path):
    make_mvtec(tmp_path)
    (tmp_path / "cup/train/good/Thumbs.db").touch()
    (tmp_path / "cup/train/good/._9.png").touch()
    (tmp_path / "notes").mkdir()
    catalogue = mvtec.scan(tmp_path)
    assert [Path(r.image_path).name for r in catalogue.train["cup"]] == ["0.png", "9.png", "10.png"]
    assert catalogue.categories == ["cup"]


def test_unusual_names_survive_the_way_through_meta_json(tmp_path):
    odd = ["with space", "qu'o\"te", "line\nbreak", "caf\u00e9 \u7f3a\u9677", "<img src=x onerror=alert(1)>", "=1+1",
           os.fsdecode(b"latin\xe9")]
    root = tmp_path / odd[3]
    for name in odd:
        save(root / "cup" / "train/good" / f"{name}.png")
        save(root / "cup" / "test" / name / f"{name}.png")
        save(root / "cup" / "ground_truth" / name / f"{name}_mask.png")
    assert run_script("mvtec", mvtec.scan, root, "", []) == 0
    catalogue = open_catalogue("mvtec", root)
    assert catalogue == mvtec.scan(root) and len(catalogue.test["cup"]) == len(odd)
    assert all((root / path).is_file() for r in catalogue.test["cup"] for path in (r.image_path, r.mask_path))
    items = [InspectionDataset(root, catalogue.test["cup"], 14)[i] for i in range(len(odd))]
    assert all(item["mask"].all() for item in items)


@pytest.mark.parametrize("layout, said", [([], "holds no category"), (["cup/images/0.png"], "holds no category"),
                                          (["train/good/0.png", "test/good/0.png"], "the folder above it")])
def test_mvtec_says_what_root_should_be(tmp_path, layout, said):
    for name in layout:
        save(tmp_path / name)
    with pytest.raises(DataError, match=said):
        mvtec.scan(tmp_path)
    with pytest.raises(DataError, match="cannot be listed"):
        mvtec.scan(tmp_path / "nowhere")


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    make_mvtec(tmp_path)
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("dent"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match="dent: cannot be listed .Permission denied"):
        mvtec.scan(tmp_path)


HEADER = "object,split,label,image,mask\n"


@pytest.mark.parametrize("content, said", [
    ("", "has no column object, split, label, image, mask"),
    ("object,split,label,image\ncup,train,normal,0.png\n", "has no column mask"),
    ("cup,train,normal,0.png,\n", "has no column"),
    (HEADER + "cup,train,normal,0.png\n", "line 2: has another number of fields"),
    (HEADER + "cup,train,normal,0.png,,\n", "line 2: has another number of fields"),
    (HEADER + "cup,valid,normal,0.png,\n", "line 2: split must be"),
    (HEADER + "cup,train,good,0.png,\n", "line 2: split must be"),
    (HEADER + "cup,train,normal,/etc/passwd,\n", "line 2: .*absolute path"),
    (HEADER + "cup,test,anomaly,0.png,../0.png\n", "line 2: .*stay inside"),
    (HEADER + "../cup,train,normal,0.png,\n", "line 2: .*cannot name"),
    (HEADER + "cup,train,normal,,\n", "line 2: a path is missing"),
    (HEADER + "cup,train,normal,0.png,\ncup,train,normal,0.png,\n", "line 3: lists 0.png twice"),
    (HEADER + "cup,train,normal,1.png,\n", "holds none of the images"),
    (HEADER, "holds none of the images"),
    (b"\xff\xfe\x00o\x00b", "not a CSV file"),
    (HEADER + f"cup,train,normal,{'x' * 200_000},\n", "not a CSV file"),
])
def test_bad_split_files_are_refused(tmp_path, content, said):
    save(tmp_path / "0.png")
    (tmp_path / "1cls.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=said) as caught:
        visa.scan(tmp_path, tmp_path / "1cls.csv")
    assert "1cls.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_split_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="--split-csv"):
        visa.scan(tmp_path)


def test_split_columns_may_stand_in_any_order(tmp_path):
    save(tmp_path / "0.png")
    content = b"\xef\xbb\xbfmask,note,label,image,split,object\r\n,hm,normal,0.png,train,cup\r\n"
    (tmp_path / "1cls.csv").write_bytes(content)
    assert visa.scan(tmp_path, tmp_path / "1cls.csv").train == {"cup": [Record("0.png", "", "cup", "good", False)]}


# Scripts -------------------------------------------------------------------------------------------------------------

def test_script_writes_meta_and_names_the_problems(tmp_path, capsys):
    make_mvtec(tmp_path)
    (tmp_path / "cup/ground_truth/dent/2_mask.png").unlink()
    save(tmp_path / "cup/ground_truth/scratch/0_mask.png", 0)
    (tmp_path / "cup/train/good/9.png").write_text("text")
    assert run_script("mvtec", mvtec.scan, tmp_path / "unused", "", [str(tmp_path)]) == 0
    assert read_meta(tmp_path / "meta.json", tmp_path) == mvtec.scan(tmp_path)
    said = capsys.readouterr().out
    assert "3 problems" in said and "not an official category" in said
    for problem in ("9.png: is not an image", "2.png: anomalous image without a mask", "0_mask.png: empty mask"):
        assert problem in said


def test_script_fails_with_one_sentence(tmp_path, capsys):
    make_mvtec(tmp_path / "root")
    for arguments in ([str(tmp_path / "none")], [str(tmp_path / "root"), "--meta", str(tmp_path / "none/meta.json")]):
        assert run_script("mvtec", mvtec.scan, tmp_path, "", arguments) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and "none" in said.err
    assert sorted(os.listdir(tmp_path / "root")) == ["cup"]


def test_script_runs_inside_the_data_folder_beside_its_dataset(tmp_path):
    (tmp_path / "data").mkdir()
    for file in (PROJECT / "data").glob("*.py"):
        shutil.copy(file, tmp_path / "data")
    make_mvtec(tmp_path / "data" / "mvtec", "bottle")
    done = subprocess.run([sys.executable, "mvtec.py"], cwd=tmp_path / "data", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 of 209" in done.stdout and "no problems found" in done.stdout
    assert set(json.loads((tmp_path / "data/mvtec/meta.json").read_text())["train"]) == {"bottle"}


@real
def test_script_of_visa_runs_from_anywhere(tmp_path):
    done = subprocess.run([sys.executable, PROJECT / "data/visa.py", SHARED / "visa", "--meta", tmp_path / "m.json"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no problems found" in done.stdout
    assert read_meta(tmp_path / "m.json", SHARED / "visa") == visa.scan(SHARED / "visa")


# Datasets ------------------------------------------------------------------------------------------------------------

def textured(root: Path, n: int = 9, side: int = 120, square: int = 8) -> list[Record]:
    """n images of noise, every third one normal; a defect's mask and its saturated red square agree."""
    random, records = np.random.default_rng(0), []
    for i in range(n):
        anomalous = i % 3 > 0
        photo = random.integers(0, 140, (side, side, 3), np.uint8)
        mask = np.zeros((side, side), np.uint8)
        if anomalous:
            top, left = random.integers(0, side - square, 2)
            photo[top:top + square, left:left + square] = (255, 0, 0)
            mask[top:top + square, left:left + square] = 3
        save(root / f"{i}.png", photo)
        save(root / f"{i}_mask.png", mask)
        records.append(Record(f"{i}.png", f"{i}_mask.png" if anomalous else "", "cup", "hole" if anomalous else "good",
                              anomalous))
    return records


def pixels(image: torch.Tensor) -> torch.Tensor:
    """(3,S,S) of 0..255 from a normalised image."""
    return (image * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)) * 255


def red(image: torch.Tensor) -> torch.Tensor:
    values = pixels(image)
    return ((values[0] > 200) & (values[1] < 90) & (values[2] < 90))[None]


def test_batches_keep_their_contract(tmp_path):
    records = textured(tmp_path)
    batch = next(iter(make_loader(InspectionDataset(tmp_path, records, 56), 4)))
    assert batch["image"].shape == (4, 3, 56, 56) and batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (4, 1, 56, 56) and batch["mask"].unique().tolist() == [0, 1]
    assert batch["category"] == ["cup"] * 4 and batch["path"] == [r.image_path for r in records[:4]]
    assert batch["mask"].flatten(1).any(1).tolist() == [r.anomalous for r in records[:4]]
    item = InspectionDataset(tmp_path, records, 56, mask_size=240)[1]
    assert torch.equal(item["image"], image_to_tensor(open_image(tmp_path / "1.png"), 56))
    assert torch.equal(item["mask"], mask_to_tensor(open_mask(tmp_path / "1_mask.png"), 240))


def test_without_augmentation_training_sees_the_images_as_they_are(tmp_path):
    records = textured(tmp_path)
    plain, training = InspectionDataset(tmp_path, records, 56), TrainingDataset(tmp_path, records, 56)
    for index in range(len(records)):
        assert torch.equal(training[index + 7 * len(records)]["image"], plain[index]["image"])
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
    assert sorted(p for batch in epochs[0] for p in batch["path"]) == sorted(r.image_path for r in dataset.records)
    assert [b["path"] for b in epochs[0]] != [b["path"] for b in epochs[1]]
    sampler.set_epoch(2, start=4)
    assert same(list(together), epochs[2][2:]) and len(together) == len(epochs[2]) - 2


def same(batches: list[dict], others: list[dict]) -> bool:
    return len(batches) == len(others) and all(
        a["path"] == b["path"] and torch.equal(a["image"], b["image"]) and torch.equal(a["mask"], b["mask"])
        for a, b in zip(batches, others))


def test_loading_leaves_the_global_random_state_alone(tmp_path):
    dataset = TrainingDataset(tmp_path, textured(tmp_path), 28, "crop")
    before = torch.get_rng_state()
    list(make_loader(dataset, 2, 0, EpochSampler(len(dataset))))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("augmentation, share", [("mosaic", 0.3), ("crop", 0.6 * (2 / 3 + 1 / 3 * 0.5))])
def test_augmentations_come_as_often_as_published_and_differ_by_epoch_and_seed(tmp_path, augmentation, share):
    records = textured(tmp_path)
    plain = [image["image"] for image in InspectionDataset(tmp_path, records, 120)]
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
    ramp = torch.arange(448).clamp(max=447).view(1, 1, -1).expand(3, 448, 448).div(2, rounding_mode="floor").byte()
    widths = {True: [], False: []}
    for anomalous in (True, False):
        for trial in range(300):
            image, _ = random_crop(ramp, torch.ones(1, 448, 448), anomalous, torch.Generator().manual_seed(trial))
            spread = int(image[0, 200].max()) - int(image[0, 200].min())
            widths[anomalous].append(min((50, 100, 448), key=lambda width: abs(width / 2 - spread)))
    shares = {a: [np.mean(np.array(w) == width) for width in (50, 100, 448)] for a, w in widths.items()}
    assert np.allclose(shares[True], [0.6, 0.4, 0], atol=0.08) and np.allclose(shares[False], [0, 0.5, 0.5], atol=0.08)


@pytest.mark.parametrize("side", [28, 50, 99])
def test_crops_of_small_images_are_clamped(side):
    photo, mask = torch.zeros(3, side, side, dtype=torch.uint8), torch.zeros(1, side, side)
    mask[0, side - 1, 0] = 1
    for trial in range(20):
        image, cropped = random_crop(photo, mask, True, torch.Generator().manual_seed(trial))
        assert image.shape == photo.shape and cropped.any()
    assert torch.equal(random_crop(photo, mask * 0, True, torch.Generator())[1], mask * 0), "nothing left to crop to"


@pytest.mark.parametrize("size", [448, 57, 1])
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
        values = pixels(dataset[key]["image"])
        assert abs(values - (10 if dataset[key]["category"] == "dark" else 240)).max() < 1


def test_training_refuses_what_it_cannot_learn_from(tmp_path):
    records = textured(tmp_path)
    with pytest.raises(DataError, match="bare.png: anomalous image without a mask"):
        TrainingDataset(tmp_path, [*records, Record("bare.png", "", "cup", "hole", True)], 28)
    with pytest.raises(DataError, match="--augmentation"):
        TrainingDataset(tmp_path, records, 28, "flip")


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_workers_arrive_as_their_own_sentence(tmp_path, workers):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    dataset = InspectionDataset(tmp_path, [Record("broken.png", "", "cup", "good", False)], 28)
    with pytest.raises(DataError) as caught:
        list(make_loader(dataset, 1, workers))
    assert str(caught.value).startswith(str(tmp_path / "broken.png")) and "\n" not in str(caught.value)
    limited = InspectionDataset(tmp_path, [Record(save(tmp_path / "a.png").name, "", "cup", "good", False)], 28,
                                max_pixels=100)
    with pytest.raises(DataError, match="a.png: 12x10 px is above the limit of 100 pixels"):
        list(make_loader(limited, 1, workers))
