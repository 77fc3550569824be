"""An encoder of timm through all commands: training, testing with windows, inspecting, saving and
resuming."""

import json

import numpy as np
import pytest

from fdsl.api import AnomalyDetector
from models.methods.registry import METHODS, WITH_HEADS
from tests.support.predictions import RUNTIME, rows
from tests.support.small_runs import command
from utils.errors import ConfigError

train, test, predict = command("train"), command("test"), command("predict")
FLAGS = ["--model", "timm/test_vit", "--pretrained", "none", "--layers", "2", "4", "--image-size", "80"]
FLAGS += ["--token-norm", "final", *RUNTIME]
LFE = ["--win-size", "3", "--win-stride", "2"]


@pytest.fixture(scope="module")
def heads(tmp_path_factory, datasets):
    """Checkpoints trained on an encoder of timm."""
    folder = tmp_path_factory.mktemp("timm")
    data = ["--dataset", "visa", "--data-path", str(datasets[1])]
    train.main([*data, *FLAGS, "--checkpoints", str(folder), "--epochs", "1", "--k-shot", "1"])
    return folder


def test_heads_are_trained_and_tested_with_windows(heads, datasets, tmp_path):
    places = ["--checkpoints", str(heads), "--results", str(tmp_path)]
    data = ["--dataset", "mvtec", "--data-path", str(datasets[0])]
    test.main([*data, *places, *RUNTIME, "--pretrained", "none", *LFE])
    folder = tmp_path / "fdsl/mvtec/1shot/seed14/mul_3_2_0.5"
    config = json.loads((folder / "config.json").read_text())
    assert config["backbone"]["model"] == "timm/test_vit" and config["backbone"]["token_norm"] == "final"
    assert (folder / "metrics.json").is_file()
    with pytest.raises(ConfigError, match="--token-norm raw does not match the checkpoint"):
        test.main([*data, *places, *RUNTIME, "--token-norm", "raw"])
    with pytest.raises(SystemExit, match="2"):
        test.main(["--from-maps", str(folder), "--token-norm", "raw"])


@pytest.mark.parametrize(
    "method", [name for name, kind in METHODS.items() if not (kind.needs_heads or kind.reads_text)]
)
def test_photographs_are_inspected(method, place, tmp_path):
    look = ["--input", str(place / "parts"), "--output", str(tmp_path / "out")]
    shown = [] if METHODS[method].added_by else ["--references", str(place / "good")]
    file = tmp_path / "part.safetensors"
    predict.main([*look, *shown, "--method", method, *FLAGS, "--save-detector", str(file)])
    first = rows(tmp_path / "out/scores.csv")
    assert first and all(np.isfinite(float(row["score"])) for row in first)
    again = ["--input", str(place / "parts"), "--output", str(tmp_path / "again"), "--detector", str(file)]
    predict.main([*again, *RUNTIME[:2]])
    assert [row["score"] for row in rows(tmp_path / "again/scores.csv")] == [row["score"] for row in first]


def test_the_python_interface_takes_it_with_heads(heads, place):
    made = AnomalyDetector.from_checkpoint(
        heads / "fdsl/visa.safetensors",
        method=WITH_HEADS,
        win_size=3,
        win_stride=2,
        index_memory="window",
        device="cpu",
        precision="fp32",
    )
    made.fit(place / "good")
    found = made.predict(place / "good")
    assert made.backbone.fingerprint.endswith("-final") and all(np.isfinite(one.score) for one in found)
