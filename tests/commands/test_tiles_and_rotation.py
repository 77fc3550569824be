"""Tiles, rotated references and components of a method, through the commands."""

import csv
import json
import shutil

import numpy as np
import pytest

from fdsl.store.maps import load_maps
from tests.support.both_layouts import BACKBONE
from tests.support.small_runs import command
from utils.errors import ConfigError

test, predict = command("test"), command("predict")
CLOSER = ["--tiles", "2", "--rotate-references", "auto", "--leave-out", "self-dissimilarity", "bilateral"]


@pytest.fixture(scope="module")
def arguments(datasets, tiny_configs, tmp_path_factory):
    """Arguments of a run of method plus on a dataset of its own."""
    folder = tmp_path_factory.mktemp("closer")
    shutil.copytree(datasets[0], folder / "mvtec")
    places = ["--data-path", str(folder / "mvtec"), "--results", str(folder / "results")]
    method = ["--dataset", "mvtec", "--method", "plus", "--pictures", "0", "--image-score", "max"]
    return [*method, *places, "--model-config", tiny_configs, *BACKBONE], folder


def runs_in(folder):
    return sorted((folder / "results/fdsl/mvtec/1shot/seed14").iterdir())


def test_a_run_says_how_it_looked_and_is_evaluated_anew(arguments):
    given, folder = arguments
    test.main([*given, *CLOSER])
    (run,) = runs_in(folder)
    assert run.name == "plus_ViT-tiny-test_untrained_layers1-3_64px_tiles2_no-bilateral_no-self-dissimilarity"
    config = json.loads((run / "config.json").read_text())
    assert config["windows"]["tiles"] == 2 and config["rotations"] == "auto"
    assert config["options"]["leave_out"] == ["bilateral", "self-dissimilarity"]
    plain = load_maps(run / "maps.npz").maps.base
    again = ["--from-maps", str(run), "--image-score", "top1", "--pictures", "0"]
    test.main([*again, "--results", str(folder / "again")])
    (other,) = (folder / "again/fdsl/mvtec/1shot/seed14").iterdir()
    assert "tiles2" in other.name and "top1" in other.name
    assert np.array_equal(load_maps(other / "maps.npz").maps.base, plain)
    for changed in (["--tiles", "3"], ["--rotate-references", "4"], ["--leave-out", "top-k"]):
        with pytest.raises(SystemExit, match="2"):
            test.main([*again, *changed, "--results", str(folder / "never")])
    assert not (folder / "never").exists()


def test_without_the_flags_the_run_is_the_usual_one(arguments):
    given, folder = arguments
    test.main([*given, "--tiles", "1", "--rotate-references", "1"])
    run = next(run for run in runs_in(folder) if "tiles" not in run.name)
    config = json.loads((run / "config.json").read_text())
    assert config["windows"]["tiles"] == 1 and config["rotations"] == 1
    assert config["options"]["leave_out"] == []


@pytest.mark.parametrize(
    "wrong, flag",
    [
        (["--tiles", "2", "--winmode", "mul"], "--tiles"),
        (["--method", "nearest", "--leave-out", "top-k"], "--leave-out"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, wrong, flag):
    given, folder = arguments
    with pytest.raises(ConfigError, match=flag):
        test.main([*given, *wrong, "--results", str(folder / "never")])
    assert not (folder / "never").exists()


def test_predict_takes_tiles_and_keeps_them_in_the_detector(arguments, backbone, tmp_path):
    _, folder = arguments
    good, new = folder / "mvtec/plate/train/good", folder / "mvtec/plate/test"
    made = ["--references", str(good), "--method", "plus", "--tiles", "auto", "--rotate-references", "auto"]
    saved = str(tmp_path / "part.safetensors")
    out = ["--input", str(new), "--pictures", "none", "--save-maps", "--output"]
    predict.main([*made, *out, str(tmp_path / "one"), "--save-detector", saved, *backbone])
    predict.main(["--detector", saved, *out, str(tmp_path / "two")])
    one, two = (load_maps(tmp_path / name / "maps.npz").maps for name in ("one", "two"))
    assert np.array_equal(one.base, two.base) and one.base.shape[1:] == (16, 16)
    tables = [
        list(csv.DictReader(open(tmp_path / name / "scores.csv", encoding="utf-8-sig")))
        for name in ("one", "two")
    ]
    assert [row["score"] for row in tables[0]] == [row["score"] for row in tables[1]]
