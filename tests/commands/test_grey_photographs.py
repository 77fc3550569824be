"""Photographs of more than 8 bits through the commands: as their 8-bit copies to within a grey level."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from data.demo import defective_image, normal_image
from tests.support.both_layouts import BACKBONE
from tests.support.photographs import texture
from tests.support.small_runs import command
from utils.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")
test, predict = command("test"), command("predict")


def write(file, seed, top, kind, defect=False):
    file.parent.mkdir(parents=True, exist_ok=True)
    grey = cv2.cvtColor(texture(seed, defect, 60, 80), cv2.COLOR_RGB2GRAY).astype(np.float64) / 255
    cv2.imwrite(str(file), (grey * top).round().astype(kind))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same photographs in 8 and in 12 bits."""
    root = tmp_path_factory.mktemp("grey")
    for name, top, kind in (("eight", 255, np.uint8), ("twelve", 4095, np.uint16)):
        for number in range(3):
            write(root / name / "part/good" / f"{number}.png", number, top, kind)
            write(root / name / "part/bad" / f"{number}.png", 10 + number, top, kind, defect=True)
    return root


def scores(out):
    return np.array([float(row["score"]) for row in csv.DictReader(open(out / "scores.csv"))])


def test_predict_and_its_detector_look_at_both_alike(folders, backbone, tmp_path):
    found = {}
    for name in ("eight", "twelve"):
        good, bad = folders / name / "part/good", folders / name / "part/bad"
        saved = str(tmp_path / f"{name}.safetensors")
        out = ["--input", str(bad), "--pictures", "none", "--output"]
        made = ["--references", str(good), "--method", "nearest", "--save-detector", saved]
        predict.main([*made, *out, str(tmp_path / name), *backbone])
        predict.main(["--detector", saved, *out, str(tmp_path / f"{name}-again")])
        found[name] = scores(tmp_path / name)
        assert np.array_equal(scores(tmp_path / f"{name}-again"), found[name])
    assert found["twelve"] == pytest.approx(found["eight"], rel=0.03)


SCALED = {
    "minus one to one": lambda levels: levels / np.float32(127.5) - 1,
    "one mean and deviation": lambda levels: (levels - np.float32(101.3)) / np.float32(48.7),
}


@pytest.mark.parametrize("product", ["gear", "leather"])
def test_floats_about_zero_are_judged_as_the_eight_bits_they_were(product, backbone, tmp_path, logged):
    """Of photographs with black and white in them."""
    for number in range(7):
        normal, defective = normal_image(product, "train", 0, number), defective_image(product, 0, number)[0]
        levels = cv2.cvtColor(normal if number < 5 else defective, cv2.COLOR_RGB2GRAY)
        levels[:2, :2] = 0, 255
        kinds = {"eight": levels, **{name: scale(levels) for name, scale in SCALED.items()}}
        for name, values in kinds.items():
            file = tmp_path / name / ("good" if number < 3 else "new") / f"{number}.tif"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(file)
    found = {}
    for name in kinds:
        places = ["--references", str(tmp_path / name / "good"), "--input", str(tmp_path / name / "new")]
        predict.main([*places, "--pictures", "none", "--output", str(tmp_path / f"{name} out"), *backbone])
        rows = list(csv.DictReader(open(tmp_path / f"{name} out/scores.csv", encoding="utf-8-sig")))
        found[name] = [(row["image"], row["score"], row["anomalous"]) for row in rows]
    assert found["eight"] == found["minus one to one"] == found["one mean and deviation"]
    assert "-1 becomes black, 1 white" in logged() and "-2.08008 becomes black, 3.15606 white" in logged()


def test_a_range_that_is_given_replaces_the_one_that_is_found(backbone, folders, tmp_path, logged):
    good, bad = folders / "twelve/part/good", folders / "twelve/part/bad"
    out = ["--input", str(bad), "--pictures", "none", "--output", str(tmp_path / "out")]
    run = ["--references", str(good), *out, *backbone]
    predict.main([*run, "--grey-range=-100:5000"])
    assert "-100 becomes black, 5000 white" in logged()
    with pytest.raises(ConfigError, match="--grey-range 5000:100 is no range: give LOW:HIGH"):
        predict.main([*run, "--grey-range=5000:100"])


def test_a_photograph_beyond_the_references_is_said(folders, detector, backbone, tmp_path, logged):
    shutil.copytree(folders / "twelve", tmp_path / "new")
    write(tmp_path / "new/part/bad/bright.png", 1, 60000, np.uint16)
    good = str(folders / "twelve/part/good")
    run = ["--references", good, "--input", str(tmp_path / "new/part/bad"), "--output", str(tmp_path / "out")]
    predict.main([*run, "--pictures", "none", *backbone])
    assert "bright.png" in logged() and "outside 0 to 4095, the range of the references" in logged()


@pytest.mark.parametrize("given, stored", [((), [0.0, 4095.0]), (("--grey-range=-5:5000",), [-5.0, 5000.0])])
def test_a_test_run_stores_the_range_of_its_references(folders, tiny_configs, tmp_path, given, stored):
    shutil.copytree(folders / "twelve", tmp_path / "data")
    run = ["--dataset", "folder", "--data-path", str(tmp_path / "data"), "--method", "nearest"]
    places = ["--results", str(tmp_path / "results"), "--model-config", tiny_configs, "--pictures", "0"]
    test.main([*run, *places, *given, "--image-score", "max", *BACKBONE])
    (config,) = (tmp_path / "results").rglob("config.json")
    assert json.loads(config.read_text())["grey"] == {"part": stored}


def test_pages_that_are_left_out_are_named(detector, backbone, tmp_path, logged):
    pages = [Image.fromarray(texture(seed)) for seed in range(3)]
    for name in ("good/many.tif", "new/more.tiff"):
        (tmp_path / name).parent.mkdir()
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    run = ["--references", str(tmp_path / "good"), "--input", str(tmp_path / "new"), "--pictures", "none"]
    predict.main([*run, "--output", str(tmp_path / "out"), *backbone])
    assert "of reference many.tif 2 page(s) are left out" in logged()
    assert "more.tiff: only its first page is read, 2 more are left out" in logged()
