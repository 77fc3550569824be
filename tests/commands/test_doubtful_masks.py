"""Masks that are empty or nearly all defect are reported, by test.py and by the check of a folder."""

import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from data.catalogue import check_catalogue, open_catalogue
from tests.support.both_layouts import BACKBONE
from tests.support.small_runs import command
from utils.errors import DataError

test, train = command("test"), command("train")


@pytest.mark.parametrize(
    "value, reported", [(255, "100% of the mask is defect"), (0, "the mask of a defect is empty")]
)
def test_masks_that_cannot_be_right_are_said(datasets, tiny_configs, tmp_path, logged, value, reported):
    shutil.copytree(datasets[0], tmp_path / "mvtec")
    mask = sorted((tmp_path / "mvtec").glob("*/ground_truth/*/*.png"))[0]
    cv2.imwrite(str(mask), np.full_like(cv2.imread(str(mask)), value))
    places = ["--data-path", str(tmp_path / "mvtec"), "--results", str(tmp_path / "results")]
    run = ["--dataset", "mvtec", "--method", "nearest", "--pictures", "0", "--model-config", tiny_configs]
    test.main([*run, *places, *BACKBONE])
    assert f"{mask.name}: {reported}" in logged()
    problems = check_catalogue(open_catalogue("mvtec", tmp_path / "mvtec"))
    assert any(f"{mask.name}: {reported}" in problem for problem in problems)


def test_usual_masks_are_not_mentioned(datasets, tiny_configs, tmp_path, logged):
    places = ["--data-path", str(datasets[0]), "--results", str(tmp_path / "results")]
    run = ["--dataset", "mvtec", "--method", "nearest", "--pictures", "0", "--model-config", tiny_configs]
    test.main([*run, *places, *BACKBONE])
    assert "mask" not in "".join(line for line in logged().splitlines() if "warning" in line)


def turned_by_exif(root):
    """The first defect's photograph as a camera on its side writes it, its mask as it lay: the sentence."""
    mask = sorted(root.glob("*/ground_truth/*/*.png"))[0]
    photo = root / mask.parts[-4] / "test" / mask.parts[-2] / mask.name.replace("_mask", "")
    with Image.open(photo) as image:
        width, height = image.size
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(photo, exif=exif)
    return f"{mask.name}: mask of {width}x{height} px for an image of {height}x{width} px; rotate it upright"


def smaller(root):
    mask = sorted(root.glob("*/ground_truth/*/*.png"))[0]
    height, width = (marked := cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)).shape
    cv2.imwrite(str(mask), marked[:-3])
    return f"{mask.name}: mask of {width}x{height - 3} px for an image of {width}x{height} px; mark it again"


@pytest.mark.parametrize("spoil", [turned_by_exif, smaller])
def test_a_mask_of_another_size_is_named_by_the_test_and_refused_by_the_training(
    datasets, tiny_configs, tmp_path, logged, spoil
):
    root = shutil.copytree(datasets[0], tmp_path / "mvtec")
    sentence = spoil(root)
    given = ["--data-path", str(root), "--model-config", tiny_configs, "--dataset", "mvtec", *BACKBONE]
    test.main([*given, "--method", "nearest", "--pictures", "0", "--results", str(tmp_path / "results")])
    assert sentence in logged() and logged().count("mask of") == 1
    assert any(sentence in problem for problem in check_catalogue(open_catalogue("mvtec", root)))
    with pytest.raises(DataError, match=re.escape(sentence)):
        train.main([*given, "--k-shot", "2", "--epochs", "1", "--checkpoints", str(tmp_path / "checkpoints")])
    assert not (tmp_path / "checkpoints").exists() or not list(
        (tmp_path / "checkpoints").rglob("*.safetensors")
    )


def exif_of_half_a_turn(root):
    """The first defect's photograph as a camera upside down writes it: its size says nothing of it."""
    mask = sorted(root.glob("*/ground_truth/*/*.png"))[0]
    photo = root / mask.parts[-4] / "test" / mask.parts[-2] / mask.name.replace("_mask", "")
    with Image.open(photo) as image:
        exif = image.getexif()
        exif[0x0112] = 3
        image.save(photo, exif=exif)
    return mask, f"{mask.name}: EXIF data of its image {photo.name} mean rotated by 180 degrees"


def test_a_mask_that_exif_data_may_have_left_behind_is_named(datasets, tiny_configs, tmp_path, logged):
    root = shutil.copytree(datasets[0], tmp_path / "mvtec")
    mask, sentence = exif_of_half_a_turn(root)
    given = ["--data-path", str(root), "--model-config", tiny_configs, "--dataset", "mvtec", *BACKBONE]
    test.main([*given, "--method", "nearest", "--pictures", "0", "--results", str(tmp_path / "results")])
    assert logged().count(sentence) == 1
    assert any(sentence in problem for problem in check_catalogue(open_catalogue("mvtec", root)))
    train.main([*given, "--k-shot", "2", "--epochs", "1", "--checkpoints", str(tmp_path / "checkpoints")])
    assert logged().count(sentence) == 2
    with Image.open(mask) as image:  # a mask that is rotated too belongs to its photograph
        exif = image.getexif()
        exif[0x0112] = 3
        image.save(mask, exif=exif)
    assert check_catalogue(open_catalogue("mvtec", root)) == []
