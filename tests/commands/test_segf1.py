"""SegF1 in every run: F1 over all pixels at a threshold from normal images that are neither references nor
tested."""

import json

import numpy as np
import pytest

from data.masks import open_mask
from data.photographs import mask_to_tensor
from fdsl.evaluation import few_shot_split
from fdsl.scoring import upsample_maps
from fdsl.store.maps import load_maps
from models.backbone import Backbone
from tests.support.photographs import draw, write_image
from tests.support.small_runs import command

pytestmark = pytest.mark.usefixtures("one_thread")
test = command("test")


def run(root, results, *flags, dataset="mvtec"):
    named = [] if "--from-maps" in flags else ["--dataset", dataset]
    test.main([*named, "--data-path", str(root), "--results", str(results), *flags])
    (file,) = results.rglob("metrics.json")
    return file.parent, json.loads(file.read_text())["categories"]


def by_hand(folder, root):
    """Of category plate, image by image, at 240 px."""
    normal = load_maps(folder / "validation.npz").maps.base
    values = np.concatenate([upsample_maps(one[None], 240).ravel() for one in normal]).astype(np.float64)
    threshold, hits, predicted, defect = values.mean() + 3 * values.std(), 0, 0, 0
    tested = load_maps(folder / "maps.npz")
    for name, single in zip(tested.names, tested.maps.base):
        mask = np.zeros((240, 240), bool)
        if "/spot/" in name:
            file = root / name.replace("/test/", "/ground_truth/").replace(".png", "_mask.png")
            mask = mask_to_tensor(open_mask(file), 240)[0].numpy() > 0
        found = upsample_maps(single[None], 240)[0] >= np.float32(threshold)
        hits, predicted, defect = hits + (found & mask).sum(), predicted + found.sum(), defect + mask.sum()
    return 2 * hits / (predicted + defect)


def test_it_is_that_of_its_definition(datasets, backbone, tmp_path):
    root = datasets[0]
    folder, found = run(root, tmp_path / "run", "--method", "nearest", *backbone)
    (reference,) = (folder / "references.txt").read_text().splitlines()
    names = load_maps(folder / "validation.npz").names
    assert sorted([*names, reference.split("\t")[1]]) == [f"plate/train/good/{n:03}.png" for n in range(5)]
    assert not set(names) & set(load_maps(folder / "maps.npz").names)
    assert (
        found["plate"]["segf1"] == pytest.approx(by_hand(folder, root), abs=1e-6)
        and found["plate"]["segf1"] > 0
    )
    assert "SegF1" in (folder / "report.html").read_text()
    again, anew = run(root, tmp_path / "again", "--from-maps", str(folder), "--metric-size", "full")
    assert anew["plate"]["segf1"] == pytest.approx(found["plate"]["segf1"], abs=0.1)
    assert load_maps(again / "validation.npz").names == names


def test_validation_images_are_taken_where_the_dataset_has_some(datasets, backbone, tmp_path, monkeypatch):
    root = tmp_path / "plates"
    for number in range(12):
        draw(root / f"plate/train/good/{number}.png", number)
        draw(root / f"plate/validation/good/{number}.png", 20 + number)
    for number in range(2):
        draw(root / f"plate/test/good/{number}.png", 40 + number)
        draw(root / f"plate/test/spot/{number}.png", 50 + number, defect=True)
        write_image(
            root / f"plate/ground_truth/spot/{number}_mask.png",
            np.pad(np.full((16, 16), 255, np.uint8), ((30, 14), (50, 14))),
        )
    flags = ["--method", "nearest", "--pictures", "0", *backbone]
    folder, found = run(root, tmp_path / "all", *flags, dataset="folder")
    names = load_maps(folder / "validation.npz").names
    assert len(names) == few_shot_split.VALIDATION_IMAGES == len(set(names))
    assert (
        all(name.startswith("plate/validation/good/") for name in names) and 0 < found["plate"]["segf1"] <= 1
    )
    (other, _) = run(root, tmp_path / "seed", *flags, "--seed", "3", dataset="folder")
    assert load_maps(other / "validation.npz").names == names, "another seed has the same ones"


def test_several_runs_encode_them_once(datasets, backbone, tmp_path, monkeypatch):
    root, encoded, plain = tmp_path / "plates", [], Backbone.encode
    for number in range(40):
        draw(root / f"plate/train/good/{number}.png", number)
    draw(root / "plate/test/good/0.png", 50)
    draw(root / "plate/test/spot/0.png", 51, defect=True)
    monkeypatch.setattr(
        Backbone,
        "encode",
        lambda self, pixels, *more: encoded.append(len(pixels)) or plain(self, pixels, *more),
    )
    flags = ["--method", "nearest", "--pictures", "0", *backbone, "--k-shot", "1", "2", "--seed", "14"]
    test.main(["--dataset", "folder", "--data-path", str(root), "--results", str(tmp_path / "runs"), *flags])
    files = list((tmp_path / "runs").rglob("validation.npz"))
    assert len(files) == 2 and load_maps(files[0]).names == load_maps(files[1]).names
    assert sum(encoded) == 2 + 2 + 10  # references, test images and these


def test_without_normal_images_that_are_left_there_is_none(datasets, backbone, tmp_path):
    root = tmp_path / "plates"
    for number in range(3):
        draw(root / f"plate/good/{number}.png", number)
    draw(root / "plate/spot/0.png", 51, defect=True)
    write_image(
        root / "plate/masks/spot/0.png", np.pad(np.full((16, 16), 255, np.uint8), ((30, 14), (50, 14)))
    )
    folder, found = run(root, tmp_path / "run", "--method", "nearest", *backbone, dataset="folder")
    assert found["plate"]["segf1"] is None and found["plate"]["aupro_05"] is not None
    assert not (folder / "validation.npz").exists() and "SegF1" not in (folder / "report.html").read_text()
