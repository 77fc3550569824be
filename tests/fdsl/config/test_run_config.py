"""The typed configuration: the JSON values of every kind of run, and when two runs are the same."""

import itertools
import json
from dataclasses import replace

import pytest

from fdsl.config.run_config import (
    FittedConfig,
    PredictionConfig,
    RunConfig,
    Threshold,
    identity_of_prediction,
)
from fdsl.config.training_config import TrainedWith
from utils.config import QUARTER, BackboneConfig, MethodConfig, WindowConfig
from utils.errors import ConfigError
from utils.options import as_stored, from_stored, without

MACHINE = {
    "device": "cuda:0",
    "device_name": "NVIDIA H200",
    "precision": "float16",
    "torch": "2.7.1",
    "python": "3.12.3",
    "system": "Linux-6.1",
    "precision_asked": None,
}


def a_run(**changes):
    """config.json of a run, as test.py writes it; `changes` may reach into parts: windows__win_size."""
    values = {
        "dataset": "mvtec",
        "data_path": "data/mvtec",
        "meta": None,
        "model_name": "fdsl",
        "k_shot": 1,
        "seed": 14,
        "method": "fdsl",
        "checkpoint": "checkpoints/fdsl/visa.safetensors",
        "checkpoint_digest": "ab" * 32,
        "trained_on": "visa",
        "backbone": as_stored(BackboneConfig()),
        "weights": "0123456789abcdef",
        "options": as_stored(MethodConfig()),
        "windows": as_stored(WindowConfig()),
        "image_score": "paper",
        "metric_size": 240,
        "pictures": None,
        "machine": dict(MACHINE),
        "command": "python test.py --dataset mvtec",
        "files": "cd" * 32,
        "trained_on_test_images": False,
        "rotations": 1,
        "grey": None,
    }
    for name, value in changes.items():
        part, _, inner = name.partition("__")
        values[part] = {**values[part], inner: value} if inner else value
    return values


NEAREST = {"method": "nearest", "checkpoint": "", "checkpoint_digest": "", "trained_on": None}
WINDOWS = [
    {"windows": as_stored(WindowConfig(mode, size, 2, weight, index_memory=index, window_budget=budget))}
    for mode, size, weight, index, budget in itertools.product(
        ("nan", "mul", "onlywin"), (2, 13), (0.0, 0.3), ("0", "1", "window"), (0, 7, QUARTER)
    )
]
METHODS = [
    *({"method": method} for method in ("fdsl", "both")),
    NEAREST,
    *(
        {"options": as_stored(MethodConfig(nam, fd, align))}
        for nam, fd, align in itertools.product((True, False), ("abs", "signed", "none"), ("mulmax", "diff2"))
    ),
]
MACHINES = [
    *({"machine__precision": precision} for precision in ("float32", "bfloat16", "float16")),
    {"machine": {**MACHINE, "precision": "float32", "precision_asked": "bfloat16"}},
    {"machine__device": "cpu"},
    {"machine__device_name": None},
]
ODD = [
    {"dataset": "folder", "data_path": "/data/Zahnräder \udcff \n\t'\"", "meta": "/m.json", "pictures": 0},
    {"model_name": "é ", "seed": 2**63 - 1, "k_shot": 7, "metric_size": "full", "image_score": "top1"},
    {"backbone": as_stored(BackboneConfig("ViT-B", "none", "/c", (1,), 32)), "weights": "", "pictures": 7},
    {"trained_on": None, "command": "", "trained_on_test_images": True, "checkpoint": "x.pth"},
]
RUNS = [a_run(**more) for more in (*WINDOWS, *METHODS, *MACHINES, *ODD)]
RUNS += [a_run(**one, **two) for one in WINDOWS[::5] for two in (*METHODS[:3], *MACHINES)]
RUNS += [
    a_run(weights=None, trained_on_test_images=None),
    a_run(rotations="auto"),
    a_run(rotations=4, grey={"cup": [0.0, 4095.0]}),
    a_run(options=as_stored(MethodConfig(leave_out=("top-k",))), **{**NEAREST, "method": "plus"}),
]


def test_what_config_json_holds_comes_back():
    for values in RUNS:
        assert json.loads(json.dumps(as_stored(from_stored(RunConfig, values)))) == values


def test_what_the_maps_depend_on():
    assert from_stored(RunConfig, a_run()).identity("maps") == {
        "method": "fdsl",
        "checkpoint_digest": "ab" * 32,
        "options": as_stored(MethodConfig()),
        "windows": without(as_stored(WindowConfig()), ["win_weight"]),
        "backbone": {
            "model": "ViT-L-14-336-quickgelu",
            "layers": [6, 12, 18, 24],
            "image_size": 518,
            "token_norm": "raw",
        },
        "device": "cuda:0",
        "precision": "float16",
        "rotations": 1,
    }


def test_a_run_is_the_same_wherever_its_files_lie_and_whatever_asked():
    config = from_stored(RunConfig, a_run())
    for name, value, same in (
        ("data_path", "elsewhere", True),
        ("meta", "m.json", True),
        ("checkpoint", "copy.safetensors", True),
        ("command", "python test.py", True),
        ("pictures", 0, True),
        ("checkpoint_digest", "cd" * 32, False),
        ("weights", "f" * 16, False),
        ("files", "0" * 64, False),
        ("trained_on_test_images", True, False),
        ("seed", 15, False),
    ):
        other = replace(config, **{name: value})
        assert (other.identity("run") == config.identity("run")) == same, name
        same_row = same or name in ("files", "seed")
        assert (other.identity("row") == config.identity("row")) == same_row, name
    other = from_stored(RunConfig, a_run(machine__torch="2.8", machine__system="Linux-7"))
    assert other.identity("run") == config.identity("run") != config.in_float32().identity("run")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": "14"}, "seed"),
        ({"k_shot": True}, "k_shot"),
        ({"dataset": "other"}, "dataset"),
        ({"method": "magic"}, "--method magic is not known"),
        ({"image_score": "best"}, "image_score"),
        ({"metric_size": "whole"}, "metric_size"),
        ({"meta": 3}, "meta"),
        ({"pictures": "all"}, "pictures"),
        ({"machine__precision": None}, "precision"),
        ({"machine": {"precision": "float32"}}, "device"),
        ({"machine": []}, "MachineFacts"),
        ({"machine__torch": None}, "torch"),
        ({"machine__gpus": 2}, "gpus"),
        ({"heads": "fdsl"}, "has no heads"),
        ({"options__leave_out": ["top-k"]}, "--leave-out does not go with --method fdsl"),
        ({"options__leave_out": "top-k"}, "leave_out"),
        ({"windows__side": 3}, "a WindowConfig has no side"),
        ({"backbone__image_size": "518"}, "image_size"),
    ],
)
def test_what_no_run_writes_is_refused_in_a_few_words(changes, words):
    with pytest.raises(ConfigError, match=words):
        from_stored(RunConfig, a_run(**changes))


@pytest.mark.parametrize("gone", a_run())
def test_what_every_run_writes_is_missed(gone):
    with pytest.raises(ConfigError, match=f"^{gone} is missing$"):
        from_stored(RunConfig, {name: value for name, value in a_run().items() if name != gone})
    for nothing in (None, [], 3, "text"):
        with pytest.raises(ConfigError):
            from_stored(RunConfig, nothing)


@pytest.mark.parametrize("part", ["backbone", "options", "windows", "machine"])
def test_every_setting_of_a_part_is_there(part):
    for gone in a_run()[part]:
        inner = without(a_run()[part], [gone])
        with pytest.raises(ConfigError, match=gone):
            from_stored(RunConfig, a_run(**{part: inner}))


def test_a_command_may_be_as_long_as_it_likes():
    assert from_stored(RunConfig, a_run(command="x" * 9000)).command == "x" * 9000
    with pytest.raises(ConfigError, match="model_name"):
        from_stored(RunConfig, a_run(model_name="x" * 9000))


TRAINED = {
    "backbone": as_stored(BackboneConfig()),
    "options": as_stored(MethodConfig()),
    "fingerprint": "ab",
    "dataset": "visa",
    "training": {
        "epochs": 11,
        "k_shot": 10,
        "batch_size": 8,
        "learning_rate": 0.001,
        "augmentation": "crop",
        "seed": 111,
        "image_digests": "cd",
        "files": "ef",
        "images": {"cup": 7},
        "machine": MACHINE,
    },
}


def trainings():
    """TRAINED, and with each of its settings changed."""
    yield TRAINED
    for part, name, value in (
        ("backbone", "model", "x"),
        ("backbone", "pretrained", "x"),
        ("backbone", "model_config", "x"),
        ("backbone", "layers", [3]),
        ("backbone", "image_size", 32),
        ("options", "use_nam", False),
        ("options", "fd", "none"),
        ("options", "align", "diff2"),
        *(("training", name, 12) for name in ("epochs", "k_shot", "batch_size", "seed")),
        ("training", "learning_rate", 0.5),
        ("training", "augmentation", "crop"),
        *(("training", name, "x") for name in ("image_digests", "files")),
        ("training", "images", {"cup": 8}),
        ("training", "machine", {**MACHINE, "device": "cpu", "torch": "2.8"}),
        ("training", "machine", {**MACHINE, "precision": "float32"}),
        ("training", "machine", {**MACHINE, "precision": "float32", "precision_asked": "float16"}),
    ):
        yield {**TRAINED, part: {**TRAINED[part], name: value}}
    yield {**TRAINED, "fingerprint": "x"}
    yield {**TRAINED, "dataset": "mvtec"}


def test_what_a_checkpoint_holds_comes_back():
    for values in trainings():
        assert as_stored(from_stored(TrainedWith, values)) == values


def test_what_no_training_writes_is_refused():
    parts = [TRAINED[part] for part in ("backbone", "options", "training")]
    for part in (TRAINED, *parts, TRAINED["training"]["machine"]):
        for name in part:
            changed = json.loads(json.dumps(TRAINED).replace(f'"{name}": ', f'"{name}_of_old": '))
            with pytest.raises(ConfigError, match=name):
                from_stored(TrainedWith, changed)
    with pytest.raises(ConfigError, match="has no new"):
        from_stored(TrainedWith, {**TRAINED, "new": 1})
    with pytest.raises(ConfigError, match="images is .* of another type"):
        from_stored(TrainedWith, {**TRAINED, "training": {**TRAINED["training"], "images": {"cup": "7"}}})


def test_what_makes_a_training_another_one():
    assert from_stored(TrainedWith, TRAINED).identity() == {
        "model": "ViT-L-14-336-quickgelu",
        "layers": [6, 12, 18, 24],
        "image_size": 518,
        "token_norm": "raw",
        **as_stored(MethodConfig()),
        "epochs": 11,
        "k_shot": 10,
        "batch_size": 8,
        "learning_rate": 0.001,
        "augmentation": "crop",
        "seed": 111,
        "images": {"cup": 7},
        "dataset": "visa",
        "weights": "ab",
        "precision": "float16",
    }


def test_a_training_that_fell_back_is_the_one_that_was_asked_for():
    config = from_stored(TrainedWith, TRAINED)
    assert config.in_precision("float16") == config
    fallen = config.in_precision("float32")
    assert fallen.identity() == config.identity()
    assert as_stored(fallen)["training"]["machine"]["precision_asked"] == "float16"


FITTED = FittedConfig(
    from_stored(RunConfig, a_run()).detector, "max", "a.safetensors", None, fingerprint="ab", references=2
)


def test_predict_writes_what_the_detector_is_and_what_was_asked():
    made = PredictionConfig(FITTED, "12", Threshold(0.5, None, "given"), "python predict.py", "all", False)
    values = as_stored(made)
    assert from_stored(FittedConfig, {name: values[name] for name in as_stored(FITTED)}) == FITTED
    assert values["threshold"] == {"score": 0.5, "pixel_threshold": None, "source": "given", "rate": None}
    assert (values["digest"], values["pictures"], values["save_maps"], values["input"]) == (
        *("12", "all", False, None),
    )


def test_a_prediction_goes_on_wherever_it_runs_and_whatever_is_its_input():
    made = PredictionConfig(FITTED, "12", None, "python predict.py", "all", False, ("in",))
    cpu = replace(FITTED.detector, machine=replace(FITTED.detector.machine, device="cpu"))
    moved = replace(FITTED, detector=cpu, checkpoint="b.safetensors", references=3)
    for other, same in (
        (replace(made, input=("out",), command="x"), True),
        (replace(made, fitted=moved), True),
        (replace(made, fitted=replace(FITTED, rotations=4)), False),
        (replace(made, digest="13"), False),
        (replace(made, threshold=Threshold(0.5, None, "given")), False),
        (replace(made, pictures="none"), False),
    ):
        assert (other.identity() == made.identity()) == same
    assert identity_of_prediction({"made_by": "predict.py", **as_stored(made)}) == made.identity()


@pytest.mark.parametrize("gone", as_stored(FITTED))
def test_a_detector_without_its_settings_is_refused(gone):
    values = as_stored(FITTED)
    del values[gone]
    with pytest.raises(ConfigError, match=f"^{gone} is missing$"):
        from_stored(FittedConfig, values)


def test_a_detector_with_other_settings_is_refused():
    with pytest.raises(ConfigError, match="has no heads"):
        from_stored(FittedConfig, {**as_stored(FITTED), "heads": "fdsl"})
    for name, value in (
        ("fingerprint", None),
        ("references", -1),
        ("rotations", "4"),
        ("image_score", "paper"),
    ):
        with pytest.raises(ConfigError, match=f"^{name} is .*, which is not"):
            from_stored(FittedConfig, {**as_stored(FITTED), name: value})
