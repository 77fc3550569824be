"""Files that an earlier version wrote are read, recognised and gone on with.

tests/frozen/ holds what the version before the typed configurations wrote on one thread of a CPU: a
checkpoint, two saved detectors, two finished test runs and a finished prediction folder, with the photographs
and the model file.
"""

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open

from fdsl import AnomalyDetector
from fdsl.run_config import RunConfig
from fdsl.store.checkpoint import load_checkpoint
from fdsl.store.maps import load_maps
from tests.support.constants import ROOT
from tests.support.small_runs import command

pytestmark = pytest.mark.usefixtures("one_thread")
BACKBONE = ["--model", "ViT-tiny-test", "--pretrained", "none", "--layers", "2", "--image-size", "32"]
RUNTIME = ["--device", "cpu", "--precision", "fp32", "--model-config", "configs"]
WINDOWS = ["--winmode", "mul", "--win-size", "2", "--win-stride", "2"]


@pytest.fixture
def frozen(tmp_path, monkeypatch):
    """A copy of the earlier version's files, as the working folder."""
    shutil.copytree(ROOT / "tests/frozen", tmp_path / "frozen")
    monkeypatch.chdir(tmp_path / "frozen")
    return tmp_path / "frozen"


def run_of(frozen, method):
    """The folder of the finished test run of a method."""
    (found,) = [
        file.parent
        for file in frozen.glob("results/m/mvtec/1shot/seed14/*/config.json")
        if json.loads(file.read_text())["heads"] == method
    ]
    return found


def arguments(method, *more):
    heads = ["--checkpoint", "checkpoints/m/mvtec.safetensors"] if method == "fdsl" else []
    data = ["--dataset", "mvtec", "--data-path", "data", "--model-name", "m", "--method", method, *heads]
    return [*data, *BACKBONE, *RUNTIME, "--workers", "0", *WINDOWS, "--pictures", "0", *more]


@pytest.mark.parametrize("method", ["fdsl", "nearest"])
def test_a_finished_run_is_recognised_and_its_configuration_keeps_its_bytes(frozen, told, method):
    folder = run_of(frozen, method)
    text = (folder / "config.json").read_text()
    config = RunConfig.from_json(json.loads(text))
    assert json.dumps(config.to_json(), indent=1, ensure_ascii=False) + "\n" == text
    command("test").main(arguments(method))
    assert "is finished: nothing to do" in told() and (folder / "config.json").read_text() == text


@pytest.mark.parametrize("method", ["fdsl", "nearest"])
def test_the_same_command_gives_the_same_maps_and_numbers(frozen, tmp_path, method):
    folder = run_of(frozen, method)
    command("test").main(arguments(method, "--results", str(tmp_path / "anew")))
    again = tmp_path / "anew" / folder.relative_to(frozen / "results")
    before, now = (load_maps(place / "maps.npz") for place in (folder, again))
    assert before.names == now.names
    for one, other in zip(before.maps.arrays, now.maps.arrays):
        assert np.allclose(one, other, rtol=0, atol=1e-5)
    wanted, found = (json.loads((place / "metrics.json").read_text()) for place in (folder, again))
    assert found["mean"] == pytest.approx(wanted["mean"], abs=1e-4)  # F1 may part pixels that were equal


def test_a_checkpoint_says_how_it_was_trained(frozen):
    checkpoint = load_checkpoint(frozen / "checkpoints/m/mvtec.safetensors")
    assert (checkpoint.width, checkpoint.blocks, checkpoint.has_nam) == (32, 1, True)
    assert checkpoint.config.dataset == "mvtec" and checkpoint.config.training.epochs == 1


@pytest.mark.parametrize("method", ["nearest", "both"])
def test_a_saved_detector_says_of_photographs_what_it_said(frozen, method):
    detector = AnomalyDetector.load(f"{method}.safetensors", device="cpu")
    assert detector.config.detector.method == method and detector.threshold.score > 0
    detector.save("again.safetensors")
    again = AnomalyDetector.load("again.safetensors", device="cpu")
    assert again.threshold == detector.threshold
    if method == "both":
        rows = [json.loads(line) for line in (frozen / "out_both/scores.jsonl").read_text().splitlines()]
        found = detector.predict([frozen / "data/cup/test" / row["image"] for row in rows])
        assert [one.score for one in found] == pytest.approx([row["score"] for row in rows], abs=1e-5)
        assert detector.threshold.score == rows[0]["threshold"]


def test_plus_keeps_to_the_parts_that_it_was_saved_with(frozen):
    """What an earlier version saved says nothing of parts that came later, and works without them."""
    flags = ["--references", "data/cup/train/good", "--input", "data/cup/test", "--method", "plus"]
    flags += [
        *BACKBONE,
        "--layers",
        "1",
        "2",
        *RUNTIME,
        "--winmode",
        "nan",
        "--pictures",
        "none",
        "--save-maps",
    ]
    younger = ("bilateral", "early", "early_score", "early_whole")
    for name, more in (("now", []), ("before", ["--leave-out", *younger])):
        files = ["--output", name, "--save-detector", f"{name}.safetensors"]
        assert command("predict").main([*flags, *files, *more]) == 0
    now, before = (AnomalyDetector.load(f"{name}.safetensors", device="cpu") for name in ("now", "before"))
    assert (now.config.detector.options.leave_out, before.config.detector.options.leave_out) == ((), younger)
    with safe_open("before.safetensors", "pt") as opened:
        made = json.loads(opened.metadata()["fdsl_detector"])
    assert set(made["method"]) == {"use_nam", "fd", "align"}
    (photo,) = list((frozen / "data/cup/test").rglob("*.png"))[:1]
    one, other = (detector.predict([photo])[0] for detector in (now, before))
    assert one.score != pytest.approx(other.score, rel=1e-4)
    assert not np.allclose(one.patch_map, other.patch_map)
