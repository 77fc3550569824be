"""What goes wrong with the numbers of a run: overflow, losses, gradients and maps that are not finite."""

import json

import pytest
import torch
from safetensors.torch import load_file

from fdsl.store.checkpoint import load_checkpoint
from fdsl.training import step as training_step
from models.backbones.open_clip import OpenClipBackbone
from models.detector import Detector
from models.features import Features
from models.methods.fdsl import Fdsl
from tests.support.small_runs import command, files, finished_place
from utils.errors import ModelError

pytestmark = pytest.mark.usefixtures("one_thread")

train, test = command("train"), command("test")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished training and test run without pictures."""
    return finished_place(tmp_path_factory.mktemp("place"), "--pictures", "0")


# Overflow ---------------------------------------------------------------------------------------------------


def overflow_in(monkeypatch, dtype, calls):
    """A backbone whose values overflow in `dtype` from the given call on."""
    original, count = OpenClipBackbone.encode, [0]

    def encode(self, *arguments, **named):
        found = original(self, *arguments, **named)
        count[0] += 1
        if self.dtype == dtype and count[0] > calls:
            return Features(found.tokens * float("inf"), found.embedding)
        return found

    monkeypatch.setattr(OpenClipBackbone, "encode", encode)


@pytest.mark.parametrize("calls", [0, 20])
def test_a_test_run_that_overflows_is_repeated_in_float32(place, tmp_path, monkeypatch, logged, calls):
    overflow_in(monkeypatch, torch.bfloat16, calls)
    arguments = place.test("--pictures", "0", "--precision", "bf16", "--results", str(tmp_path))
    test.main(arguments)
    assert logged().count("Values overflowed in bfloat16 at ") == 1
    found, wanted = place.run_folder(tmp_path), place.run_folder()
    assert files(found) == {**files(wanted), "table.md": (found / "table.md").read_bytes()}
    machine = json.loads((found / "config.json").read_text())["machine"]
    assert (machine["precision"], machine["precision_asked"]) == ("float32", "bfloat16")
    test.main(arguments)
    assert "is finished: nothing to do" in logged()


def test_references_of_both_methods_that_overflow_are_repeated_in_float32(
    place, tmp_path, monkeypatch, logged
):
    overflow_in(monkeypatch, torch.bfloat16, 1)  # fitted well, then scored
    test.main(
        place.test("--pictures", "0", "--precision", "bf16", "--method", "both", "--results", str(tmp_path))
    )
    assert logged().count("Values overflowed in bfloat16 at a reference of ") == 1
    config = json.loads(next(tmp_path.rglob("config.json")).read_text())
    assert config["machine"]["precision"] == "float32" and config["method"] == "both"


def test_a_training_that_overflows_goes_on_in_float32(place, tmp_path, monkeypatch, logged):
    overflow_in(monkeypatch, torch.bfloat16, 0)
    arguments = place.train("--precision", "bf16", "--checkpoints", str(tmp_path))
    train.main(arguments)
    found = tmp_path / "m/mvtec.safetensors"
    assert logged().count("Values overflowed in bfloat16") == 1
    assert all(
        torch.equal(one, two)
        for one, two in zip(load_file(found).values(), load_file(place.weights()).values())
    )
    machine = load_checkpoint(found).config.training.machine
    assert (machine.precision, machine.precision_asked) == ("float32", "bfloat16")
    train.main(arguments)
    assert "trained with these settings already" in logged()


def test_a_training_that_overflowed_is_resumed_in_float32(place, tmp_path, monkeypatch):
    weights = []
    for name, faults in (("whole", []), ("resumed", [8])):
        with monkeypatch.context() as patch:
            overflow_in(patch, torch.bfloat16, 9)  # after the references and two batches
            arguments = place.train(
                "--precision", "bf16", "--checkpoints", str(tmp_path / name), "--save-every", "1"
            )
            for calls in faults:
                with patch.context() as fault:
                    stop_at_step(fault, calls)
                    with pytest.raises(KeyboardInterrupt):
                        train.main(arguments)
            train.main(arguments)
        weights.append((tmp_path / name / "m/mvtec.safetensors").read_bytes())
    assert weights[0] == weights[1]


def stop_at_step(monkeypatch, step):
    original, count = training_step.HeadsStep.__call__, [0]

    def counted(self, *arguments):
        count[0] += 1
        if count[0] == step:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(training_step.HeadsStep, "__call__", counted)


# Not finite -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_step_files_and_the_last_good_state(
    place, tmp_path, monkeypatch
):
    original, count = training_step.DiscrepancySource.__call__, [0]

    def spoilt(self, batch):
        count[0] += 1
        return original(self, batch) * (float("nan") if count[0] == 4 else 1)

    arguments = place.train("--checkpoints", str(tmp_path), "--save-every", "2")
    with monkeypatch.context() as patch:
        patch.setattr(training_step.DiscrepancySource, "__call__", spoilt)
        with pytest.raises(ModelError) as caught:
            train.main(arguments)
    reported = str(caught.value)
    assert "not finite at step 4 (images " in reported and reported.count(".png") == 4
    assert "the state after step 2 is stored in" in reported and "--learning-rate" in reported
    train.main(arguments)
    assert files(tmp_path / "m") == files(place.folder / "checkpoints/m")


def test_a_gradient_that_is_not_finite_is_never_stepped_along(place, tmp_path, monkeypatch):
    monkeypatch.setattr(Fdsl, "maps_of", with_bad_gradient(Fdsl.maps_of))
    with pytest.raises(ModelError, match="not finite at step 1 .*there is no earlier state"):
        train.main(place.train("--checkpoints", str(tmp_path)))
    assert not list(tmp_path.rglob("*.safetensors"))


def with_bad_gradient(maps_of):
    def spoilt(self, raw):
        raw.register_hook(lambda gradient: gradient * float("inf"))
        return maps_of(self, raw)

    return spoilt


def test_a_map_that_is_not_finite_names_its_image(place, tmp_path, monkeypatch):
    original = Detector.forward

    def spoilt(self, images, match=None):
        found = original(self, images, match)
        found.window[1, 0, 0] = float("nan")
        return found

    monkeypatch.setattr(Detector, "forward", spoilt)
    with pytest.raises(
        ModelError,
        match="cup/test/good/001.png: its anomaly map is not finite in float32; check the photograph",
    ):
        test.main(place.test("--results", str(tmp_path)))
    assert not list(tmp_path.rglob("metrics.json"))
