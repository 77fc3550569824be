"""The shell scripts: arguments and datasets that are refused, and trainings and tests on each other's
dataset."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.both_layouts import BACKBONE
from tests.support.constants import ROOT


def shell(script, *arguments, **environment):
    return subprocess.run(
        ["bash", str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment},
    )


GOOD = ["m", "cpu", "1", "mul", "4", "3", "0.5", "14", "1"]


@pytest.mark.parametrize(
    "place, value, name",
    [
        (0, "a/b", "MODEL"),
        (1, "gpu", "DEVICE"),
        (2, "yes", "useNAM"),
        (3, "off", "winmode"),
        (4, "0", "win-size"),
        (5, "x", "win-stride"),
        (5, "9", "win-stride 9, is larger"),
        (6, "1.5", "win-weight"),
        (7, "-1", "seed"),
        (8, "k", "kshots"),
    ],
)
@pytest.mark.parametrize("script", ["trainAndTest.sh", "test_few_shot.sh"])
def test_a_wrong_argument_is_answered_with_the_usage_and_which_it_was(script, place, value, name):
    ran = shell(script, *GOOD[:place], value, *GOOD[place + 1 :])
    assert ran.returncode == 2 and name in ran.stderr and "usage: bash " + script in ran.stderr


def test_a_missing_argument_or_dataset_is_said():
    ran = shell("test_few_shot.sh", *GOOD[:7])
    assert ran.returncode == 2 and "argument 8, seed, is missing" in ran.stderr
    ran = shell("trainAndTest.sh", *GOOD, MVTEC_PATH="/nowhere")
    assert ran.returncode == 2 and "MVTEC_PATH" in ran.stderr
    ran = shell("trainAndTest.sh", *GOOD, "stray")
    assert ran.returncode == 2 and "'stray'" in ran.stderr


def test_flags_of_windows_are_passed_where_there_are_windows(stubbed):
    run, calls = stubbed("test_few_shot.sh")
    for winmode, names in (
        ("mul", {"--win-size", "--win-stride", "--win-weight"}),
        ("onlywin", {"--win-size", "--win-stride"}),
        ("nan", set()),
    ):
        assert run("m", "cpu", "1", winmode, "4", "2", "0.5", "14", "1").returncode == 0
        assert {word for word in calls()[-1].split() if word.startswith("--win-")} == names
    changed = run("m", "cpu", "1", "mul", "4", "2", "0.5", "14", "1", TEST_ARGS="--winmode nan")
    assert changed.returncode == 0 and "--win-size" not in calls()[-1]


@pytest.mark.slow
def test_the_script_trains_on_one_and_tests_on_the_other(datasets, tiny_configs, tmp_path):
    places = ["--checkpoints", str(tmp_path / "checkpoints")]
    flags = [part for part in BACKBONE if part not in ("--device", "cpu")]
    ran = shell(
        "trainAndTest.sh",
        *GOOD,
        *flags,
        *places,
        "--model-config",
        tiny_configs,
        MVTEC_PATH=str(datasets[0]),
        VISA_PATH=str(datasets[1]),
        TRAIN_ARGS="--epochs 1 --k-shot 2",
        TEST_ARGS=f"--results {tmp_path / 'results'}",
    )
    assert ran.returncode == 0, ran.stderr
    for dataset, trained_on in (("mvtec", "visa"), ("visa", "mvtec")):
        config = json.loads(
            (tmp_path / f"results/m/{dataset}/1shot/seed14/mul_4_3_0.5/config.json").read_text()
        )
        assert (
            config["trained_on"] == trained_on
            and (tmp_path / f"checkpoints/m/{trained_on}.safetensors").is_file()
        )


@pytest.mark.slow
def test_the_readme_picture_shows_two_references_and_two_photographs(backbone, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1600, 2560, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "moss.png")
    words = [ROOT / "scripts/readme_picture.py", tmp_path / "moss.png", "--output", tmp_path / "made.jpg"]
    encoder = backbone[: backbone.index("--device")]
    ran = subprocess.run([sys.executable, *words, *encoder], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert Image.open(tmp_path / "made.jpg").size == (3 * 360 + 2 * 6, 2 * 390)
