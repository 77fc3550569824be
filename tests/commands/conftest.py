"""Shared by the commands' tests: drawn datasets, photographs of parts, and detectors that know them."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from fdsl.api import AnomalyDetector
from fdsl.store.checkpoint import save_checkpoint
from models.backbone import Backbone
from models.methods.fdsl import Fdsl
from tests.support.both_layouts import draw_mvtec, draw_visa
from tests.support.constants import ROOT
from tests.support.photographs import draw_parts
from tests.support.predictions import BACKBONE_OPTIONS, RUNTIME
from tests.support.run_config import heads_of
from utils.config import BackboneConfig, MethodConfig

STUB = """import os, sys
from pathlib import Path
with open("calls.txt", "a") as file:
    file.write(" ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]) + "\\n")
sys.exit(3 if "--fail" in sys.argv and "--seed 14 15" in " ".join(sys.argv) else 0)
"""


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """(mvtec root, visa root): one small category in each layout; not to be written to."""
    root, generator = tmp_path_factory.mktemp("datasets"), np.random.default_rng(0)
    return draw_mvtec(root / "mvtec", generator), draw_visa(root / "visa", generator)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """good/ with references and parts/ with photographs."""
    return draw_parts(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def backbone(tiny_configs):
    """The flags of the tiny backbone."""
    return [
        "--model",
        "ViT-tiny-test",
        "--pretrained",
        "none",
        "--layers",
        "1",
        "3",
        "--image-size",
        "64",
        "--model-config",
        tiny_configs,
        *RUNTIME,
    ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_backbone):
    """Heads with random weights, as train.py would store them for model name fdsl."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("checkpoints") / "fdsl" / "visa.safetensors"
    save_checkpoint(
        file,
        Fdsl(32, 2).state_dict(),
        heads_of(BackboneConfig(**BACKBONE_OPTIONS), MethodConfig(), tiny_backbone.fingerprint, "visa"),
    )
    return file


@pytest.fixture(scope="module")
def detector(place, tiny_configs, tmp_path_factory):
    """A saved detector of method nearest."""
    file = tmp_path_factory.mktemp("detector") / "part.safetensors"
    made = AnomalyDetector.from_backbone(
        model_config=tiny_configs, device="cpu", precision="fp32", **BACKBONE_OPTIONS
    )
    made.fit(place / "good")
    made.save(file)
    return file


@pytest.fixture(scope="module")
def two_plates(datasets, tmp_path_factory):
    """MVTec AD's layout with two categories."""
    root = tmp_path_factory.mktemp("plates")
    for name in ("plate", "plate2"):
        shutil.copytree(datasets[0] / "plate", root / name)
    return root


@pytest.fixture
def no_validation(monkeypatch):
    """test.py scores test images alone: no normal images give SegF1 its threshold."""
    monkeypatch.setattr("fdsl.evaluation.few_shot_split.VALIDATION_IMAGES", 0)


@pytest.fixture
def images_encoded(monkeypatch, no_validation):
    """How many images were given to backbones."""
    counted, plain = [], Backbone.encode

    def encode(self, pixels, *more, **named):
        counted.append(len(pixels))
        return plain(self, pixels, *more, **named)

    monkeypatch.setattr(Backbone, "encode", encode)
    return lambda: sum(counted)


@pytest.fixture
def stubbed(tmp_path):
    """A shell command in a project whose Python commands only write down how they were called: its name ->
    (run, calls)."""
    return lambda name: _stubbed(name, tmp_path)


def _stubbed(script, tmp_path):
    for name in (script, "scripts/shell.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("train.py", "test.py", "fdsl/summarize.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(STUB)
    (tmp_path / "requirements.txt").write_text("")
    for name in ("bin", "m v", "visa"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)

    def run(*words, **environment):
        clean = {
            name: value
            for name, value in os.environ.items()
            if name
            not in ("SEEDS", "SHOTS", "KINDS", "SIZES", "STRIDES", "WEIGHTS", "TEST_ARGS", "TRAIN_ARGS")
        }
        return subprocess.run(
            ["bash", str(tmp_path / script), *words],
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **clean,
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "MVTEC_PATH": "m v",
                "VISA_PATH": "visa",
                **environment,
            },
        )

    return (
        run,
        lambda: (
            (tmp_path / "calls.txt").read_text().splitlines() if (tmp_path / "calls.txt").exists() else []
        ),
    )
