"""The typed configuration: the JSON values of every kind of run, and when two runs are the same."""

import hashlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from fdsl.run_config import FittedConfig, PredictionConfig, RunConfig, identity_of_prediction
from fdsl.store.finished_parts import FinishedParts
from fdsl.store.maps import RunMaps
from fdsl.thresholds import Threshold
from fdsl.training_config import TrainedWith
from models.features import ScoreMaps
from utils.config import QUARTER, BackboneConfig, MachineFacts, MethodConfig, WindowConfig, as_stored
from utils.errors import ConfigError

MACHINE = {
    "device": "cuda:0",
    "device_name": "NVIDIA H200",
    "precision": "float16",
    "torch": "2.7.1",
    "python": "3.12.3",
    "system": "Linux-6.1",
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
        "heads": "fdsl",
        "checkpoint": "checkpoints/fdsl/visa.safetensors",
        "checkpoint_digest": "ab" * 32,
        "trained_on": "visa",
        "backbone": as_stored(BackboneConfig()),
        "weights": "0123456789abcdef",
        "method": as_stored(MethodConfig()),
        "windows": as_stored(WindowConfig()),
        "image_score": "paper",
        "metric_size": 240,
        "pictures": None,
        "machine": dict(MACHINE),
        "command": "python test.py --dataset mvtec",
        "files": "cd" * 32,
        "learnt_from_these": False,
    }
    for name, value in changes.items():
        part, _, inner = name.partition("__")
        values[part] = {**values[part], inner: value} if inner else value
    return values


NEAREST = {"heads": "nearest", "checkpoint": "", "checkpoint_digest": "", "trained_on": None}
WINDOWS = [
    {"windows": as_stored(WindowConfig(mode, size, 2, weight, index, budget))}
    for mode, size, weight, index, budget in itertools.product(
        ("nan", "mul", "onlywin"), (1, 13), (0.0, 0.3), ("0", "1", "window"), (0, 7, QUARTER)
    )
]
METHODS = [
    *({"heads": method} for method in ("fdsl", "both")),
    NEAREST,
    *(
        {"method": as_stored(MethodConfig(nam, fd, align))}
        for nam, fd, align in itertools.product((True, False), ("abs", "signed", "none"), ("mulmax", "diff2"))
    ),
]
MACHINES = [
    *({"machine__precision": precision} for precision in ("float32", "bfloat16", "float16")),
    {"machine": {**MACHINE, "precision": "float32", "precision_asked": "bfloat16"}},
    {"machine__device": "cpu"},
    {"machine": {"device": "cpu", "precision": "float32", "torch": "2.7"}},
]
ODD = [
    {"dataset": "folder", "data_path": "/data/Zahnräder \udcff \n\t'\"", "meta": "/m.json", "pictures": 0},
    {"model_name": "é ", "seed": 2**63 - 1, "k_shot": 0, "metric_size": "full", "image_score": "top1"},
    {"backbone": as_stored(BackboneConfig("ViT-B", "none", "/c", (1,), 32)), "weights": "", "pictures": 7},
    {"trained_on": None, "command": "", "learnt_from_these": True, "checkpoint": "x.pth"},
]
RUNS = [a_run(**more) for more in (*WINDOWS, *METHODS, *MACHINES, *ODD)]
RUNS += [a_run(**one, **two) for one in WINDOWS[::5] for two in (*METHODS[:3], *MACHINES)]
LACKING = [
    ("learnt_from_these",),
    ("weights", "learnt_from_these"),
    ("weights", "files", "learnt_from_these"),
]
RUNS += [{name: run[name] for name in run if name not in gone} for run in RUNS[::9] for gone in LACKING]


def test_what_config_json_holds_comes_back_in_its_order():
    for values in RUNS:
        assert json.dumps(RunConfig.from_json(values).to_json()) == json.dumps(values)


def digest(values):
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


FROZEN = {"maps": "a81c4a647ebe2ac1", "run": "5772af784af52c6f", "row": "fa2896eed9256a44"}


@pytest.mark.parametrize("of", FROZEN)
def test_identities_are_those_of_every_version_before(of):
    """The digest is of RUNS' identities as the dictionaries gave them that went before: files name it."""
    assert digest([RunConfig.from_json(values).identity(of) for values in RUNS]) == FROZEN[of]


def test_parts_of_interrupted_runs_keep_their_names(tmp_path):
    """A name is a digest of what the maps depend on; another one would mean to start over."""
    values = {**RunConfig.from_json(a_run()).identity("maps"), "files": "f"}
    assert values == {
        "heads": "fdsl",
        "checkpoint": "ab" * 32,
        "method": {"use_nam": True, "fd": "abs", "align": "mulmax"},
        "windows": {
            "winmode": "mul",
            "win_size": 13,
            "win_stride": 2,
            "index_memory": "0",
            "window_budget": 0,
        },
        "model": "ViT-L-14-336-quickgelu",
        "layers": [6, 12, 18, 24],
        "image_size": 518,
        "device": "cuda:0",
        "precision": "float16",
        "files": "f",
    }
    FinishedParts(tmp_path).save(values, RunMaps(["a"], ScoreMaps(np.zeros((1, 2, 2)), np.zeros(1))))
    (file,) = (tmp_path / ".parts").iterdir()
    assert file.name == "cbcacc03e56ee5ae753f731a.npz"


def test_a_run_is_the_same_wherever_its_files_lie_and_whatever_asked():
    config = RunConfig.from_json(a_run())
    for name, value, same in (
        ("data_path", "elsewhere", True),
        ("meta", "m.json", True),
        ("checkpoint", "copy.safetensors", True),
        ("command", "python test.py", True),
        ("pictures", 0, True),
        ("checkpoint_digest", "cd" * 32, False),
        ("weights", "f" * 16, False),
        ("files", "0" * 64, False),
        ("learnt_from_these", True, False),
        ("seed", 15, False),
    ):
        other = replace(config, **{name: value})
        assert (other.identity("run") == config.identity("run")) == same, name
        same_row = same or name in ("files", "seed")
        assert (other.identity("row") == config.identity("row")) == same_row, name
    older = RunConfig.from_json(a_run(machine={"device": "cuda:0", "precision": "float16"}))
    assert older.identity("run") == config.identity("run") != config.in_float32().identity("run")


def test_earlier_configurations_mean_the_trained_heads():
    values = {name: value for name, value in a_run().items() if name != "heads"}
    assert RunConfig.from_json(values) == RunConfig.from_json(a_run())


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": "14"}, "seed"),
        ({"k_shot": True}, "k_shot"),
        ({"dataset": "other"}, "dataset"),
        ({"heads": "magic"}, "no method 'magic'"),
        ({"image_score": "best"}, "image_score"),
        ({"metric_size": "whole"}, "metric_size"),
        ({"meta": 3}, "meta"),
        ({"pictures": "all"}, "pictures"),
        ({"machine__precision": None}, "precision"),
        ({"machine": {"precision": "float32"}}, "device"),
        ({"machine": []}, "values that no run writes"),
        ({"windows__side": 3}, "fields"),
        ({"backbone__image_size": "518"}, "image_size"),
    ],
)
def test_what_no_run_writes_is_refused_in_a_few_words(changes, words):
    with pytest.raises(ConfigError, match=words):
        RunConfig.from_json(a_run(**changes))


@pytest.mark.parametrize("gone", ["dataset", "checkpoint_digest", "machine", "windows", "method"])
def test_what_every_run_writes_is_missed(gone):
    with pytest.raises(ConfigError, match=f"^{gone} is missing$"):
        RunConfig.from_json({name: value for name, value in a_run().items() if name != gone})
    for nothing in (None, [], 3, "text"):
        with pytest.raises(ConfigError):
            RunConfig.from_json(nothing)


PLUS = {**NEAREST, "heads": "plus"}
YOUNGER = ("bilateral", "early", "early_whole", "early_score")


@pytest.mark.parametrize(
    "stored, leave_out",
    [
        ({}, tuple(sorted(YOUNGER))),
        ({"leave_out": ["self"]}, (*sorted(YOUNGER), "self")),
        ({"younger_parts": [*YOUNGER]}, ()),
        ({"younger_parts": ["bilateral", "early"]}, ("early_score", "early_whole")),
        ({"leave_out": ["self"], "younger_parts": [*YOUNGER]}, ("self",)),
    ],
)
def test_a_part_that_earlier_versions_did_not_have_is_left_out_in_what_they_wrote(stored, leave_out):
    values = a_run(**PLUS, method={**as_stored(MethodConfig()), **stored})
    config = RunConfig.from_json(values)
    assert config.detector.options.leave_out == leave_out
    assert json.dumps(config.to_json()) == json.dumps(values)


@pytest.mark.parametrize(
    "heads, parts",
    [
        ("nearest", []),
        ("nearest", ["bilateral"]),
        ("plus", ["self"]),
        ("plus", "bilateral"),
        ("plus", [["x"]]),
    ],
)
def test_younger_parts_that_a_method_has_not_are_refused(heads, parts):
    method = {**as_stored(MethodConfig()), "younger_parts": parts}
    with pytest.raises(ConfigError):
        RunConfig.from_json(a_run(**{**NEAREST, "heads": heads}, method=method))


TRAINED = {
    "backbone": as_stored(BackboneConfig()),
    "method": as_stored(MethodConfig()),
    "fingerprint": "ab",
    "dataset": "visa",
    "training": {
        "epochs": 11,
        "k_shot": 10,
        "batch_size": 8,
        "learning_rate": 0.001,
        "augmentation": "crop",
        "seed": 111,
        "learnt": "cd",
        "files": "ef",
        "images": {"cup": 7},
        "machine": MACHINE,
    },
}


def trainings():
    """TRAINED, and with each of its settings changed or, in the training, not written."""
    yield TRAINED
    for part, name, value in (
        ("backbone", "model", "x"),
        ("backbone", "pretrained", "x"),
        ("backbone", "model_config", "x"),
        ("backbone", "layers", [3]),
        ("backbone", "image_size", 32),
        ("method", "use_nam", False),
        ("method", "fd", "none"),
        ("method", "align", "diff2"),
        *(("training", name, 12) for name in ("epochs", "k_shot", "batch_size", "learning_rate", "seed")),
        *(("training", name, "x") for name in ("augmentation", "learnt", "files")),
        ("training", "images", {"cup": 8}),
        ("training", "machine", {**MACHINE, "device": "cpu", "torch": "2.8"}),
        ("training", "machine", {**MACHINE, "precision": "float32"}),
        ("training", "machine", {**MACHINE, "precision": "float32", "precision_asked": "float16"}),
    ):
        yield {**TRAINED, part: {**TRAINED[part], name: value}}
    yield {**TRAINED, "fingerprint": "x"}
    yield {**TRAINED, "dataset": "mvtec"}
    for gone in ("learnt", "files", "images"):
        training = {name: value for name, value in TRAINED["training"].items() if name != gone}
        yield {**TRAINED, "training": training}


def test_what_a_checkpoint_holds_comes_back_in_its_order():
    for values in trainings():
        assert json.dumps(TrainedWith.from_json(values).to_json()) == json.dumps(values)


def test_the_same_training_is_what_it_was_in_every_version_before():
    assert digest([TrainedWith.from_json(values).identity() for values in trainings()]) == "2041befbc144458e"
    assert TrainedWith.from_json(TRAINED).identity() == {
        "model": "ViT-L-14-336-quickgelu",
        "layers": [6, 12, 18, 24],
        "image_size": 518,
        "use_nam": True,
        "fd": "abs",
        "align": "mulmax",
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
    config = TrainedWith.from_json(TRAINED)
    assert config.in_precision("float16") == config
    fallen = config.in_precision("float32")
    assert fallen.identity() == config.identity()
    assert list(fallen.to_json()["training"]["machine"].items())[-1] == ("precision_asked", "float16")


FITTED = FittedConfig(
    RunConfig.from_json(a_run()).detector, "max", "a.safetensors", None, fingerprint="ab", references=2
)


def test_predict_keeps_its_order_for_a_detector_made_here_and_for_a_loaded_one():
    made = PredictionConfig(FITTED, "12", None, "python predict.py", "all", False, ("in",))
    assert (
        list(made.to_json())
        == (
            "heads backbone method windows image_score machine checkpoint trained_on fingerprint references "
            "rotations detector threshold pictures save_maps input command"
        ).split()
    )
    loaded = FittedConfig.from_json({**FITTED.to_json(), "format": 2})
    values = PredictionConfig(loaded, "12", Threshold(0.5, None, "given"), "python predict.py").to_json()
    assert (
        list(values)
        == (
            "backbone checkpoint fingerprint format heads image_score machine method references rotations "
            "threshold trained_on windows detector command"
        ).split()
    )
    assert list(values["backbone"]) == sorted(values["backbone"])
    assert values["threshold"] == {"score": 0.5, "level": None, "source": "given"}


def test_a_prediction_goes_on_wherever_it_runs_and_whatever_is_its_input():
    made = PredictionConfig(FITTED, "12", None, "python predict.py", "all", False, ("in",))
    cpu = replace(FITTED.detector, machine=MachineFacts("cpu", "x", "float32"))
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
    assert identity_of_prediction({"made_by": "predict", **made.to_json()}) == made.identity()


@pytest.mark.parametrize("gone", ["heads", "machine", "fingerprint", "rotations"])
def test_a_detector_without_its_settings_is_refused(gone):
    values = {**FITTED.to_json(), "format": 2}
    del values[gone]
    if gone == "heads":
        assert FittedConfig.from_json(values).detector.method == "fdsl"
    else:
        with pytest.raises(ConfigError, match=f"^{gone} is missing$"):
            FittedConfig.from_json(values)
