"""The typed configuration: the JSON values of every kind of run, and when two runs are the same."""

import itertools
import json

import pytest

from fdsl.config import PredictionConfig, RunConfig, TrainedWith, identity_of_prediction
from utils.config import QUARTER, BackboneConfig, MethodConfig, WindowConfig, as_stored
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
    *({"heads": heads} for heads in ("fdsl", "both")),
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


@pytest.mark.parametrize("values", RUNS)
def test_what_config_json_holds_comes_back_in_its_order(values):
    assert json.dumps(RunConfig.from_json(values).to_json()) == json.dumps(values)


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
