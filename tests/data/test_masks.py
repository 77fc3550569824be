"""Masks by every usual name and place: read as masks, never scored as photographs."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from data import folder
from data.catalogue import open_catalogue
from data.masks import masks_in, masks_next_to, unmarked
from utils.errors import DataError


def picture(file, value=100):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(file)


@pytest.mark.parametrize(
    "name", ["7_mask", "7_gt", "7_GT", "7_MASK", "7_label", "7-mask", "7.bm", "mask_7", "7_ground_truth"]
)
def test_marks_of_masks(tmp_path, name):
    assert unmarked(name) == "7" and unmarked("7") is None
    picture(tmp_path / "m" / f"{name}.png")
    assert masks_in(tmp_path, "m") == {"7": f"m/{name}.png", name.casefold(): f"m/{name}.png"}
    assert masks_next_to([f"{name}.png", "7.png"]) == {f"{name}.png": "7.png"}
    assert masks_next_to([f"{name}.png", "8.png"]) == {}


def records_of(root):
    return {
        record.image_path: record.mask_path
        for part in open_catalogue("folder", root).test.values()
        for record in part
    }


@pytest.mark.parametrize(
    "mask",
    [
        "masks/scratch/7.png",
        "mask/scratch/7.png",
        "Ground_Truth/Scratch/7_mask.png",
        "ground_truth/scratch/7/000.png",
        "masks/7.png",
        "masks/mask_7.png",
        "test/scratch/7_gt.png",
        "test/ground_truth/scratch/7_mask.png",
    ],
)
def test_masks_in_every_usual_place(tmp_path, mask, logged):
    picture(tmp_path / "Train/Good/1.png")
    picture(tmp_path / "test/good/2.png")
    picture(tmp_path / "test/scratch/7.png")
    picture(tmp_path / mask, 255)
    assert records_of(tmp_path) == {"test/good/2.png": "", "test/scratch/7.png": mask}
    assert "not used" not in logged()


def test_accents_are_one_name_in_both_forms(tmp_path):
    picture(tmp_path / "good/1.png")
    picture(tmp_path / "kratzer" / unicodedata.normalize("NFC", "größe.png"))
    picture(tmp_path / "masks/kratzer" / unicodedata.normalize("NFD", "größe.png"))
    assert [mask != "" for image, mask in records_of(tmp_path).items() if "kratzer" in image] == [True]


def test_the_folders_of_mvtec_ad_2(tmp_path, logged):
    picture(tmp_path / "can/train/good/1.png")
    picture(tmp_path / "can/validation/good/2.png")
    picture(tmp_path / "can/test_public/good/3.png")
    picture(tmp_path / "can/test_public/bad/4.png")
    picture(tmp_path / "can/test_public/ground_truth/bad/4_mask.png", 255)
    found = records_of(tmp_path)
    assert found == {
        "can/test_public/good/3.png": "",
        "can/test_public/bad/4.png": "can/test_public/ground_truth/bad/4_mask.png",
    }
    assert "is not used" not in logged()  # its validation images give a threshold


def test_what_is_left_aside_is_said_when_a_run_begins(tmp_path, logged):
    picture(tmp_path / "good/1.png")
    picture(tmp_path / "scratch/7.png")
    picture(tmp_path / "masks/scratch/8.png")
    records_of(tmp_path)
    assert "masks/scratch/8.png: mask of no image" in logged()


def test_a_refusal_names_what_was_found(tmp_path):
    picture(tmp_path / "pictures/1.png")
    picture(tmp_path / "3.png")
    with pytest.raises(DataError, match="it holds 1 images directly and pictures/"):
        folder.scan(tmp_path)


def test_the_mask_of_a_name_with_a_line_break():
    assert unmarked("a\nb_mask") == "a\nb" and masks_next_to(["a\nb.png", "a\nb_mask.png"])
