"""Whole files with strange contents, loader by loader: each is used or refused with one sentence, and what is
read is used to its end.

FDSL_FUZZ=20000 sets the number of inputs of each test (default 60).
"""

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fdsl.api import AnomalyDetector
from fdsl.evaluation.run_folder import read_run_config
from fdsl.store.checkpoint import load_checkpoint
from fdsl.store.detector_metadata import METADATA_KEY
from fdsl.store.journal import Journal, RowIndex
from fdsl.store.maps import load_maps
from fdsl.store.training_state import METADATA_KEY as UNFINISHED
from fdsl.store.training_state import TrainingState
from models.methods.fdsl import Fdsl
from tests.reliability.test_fuzz import answers, changed, damaged, leaves, often, pickled
from tests.reliability.test_fuzz import made as written
from tests.support.detectors import small_detector
from tests.support.photographs import texture
from utils.errors import ConfigError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
DEEP = "[" * 100_000
PICTURES = [texture(number) for number in range(1, 4)]


@pytest.fixture(scope="module")
def detector(tiny_configs):
    """A saved detector, as bytes."""
    made = small_detector(tiny_configs, method="nearest")
    made.fit(PICTURES)
    return written(made.save)


def load_whole(file):
    assert AnomalyDetector.load(file, device="cpu").predict(PICTURES[0]).boxes is not None


@often
@given(data=st.data())
def test_damaged_detectors(detector, data):
    answers(load_whole, ConfigError, data.draw(damaged(detector)), "d.safetensors")


def test_what_is_nested_too_deeply(detector, tmp_path):
    for load, key in (
        (load_whole, METADATA_KEY),
        (lambda file: TrainingState(file, None).read(), UNFINISHED),
    ):
        save_file({"a": torch.zeros(1)}, tmp_path / "d.safetensors", metadata={key: DEEP})
        with pytest.raises(ConfigError, match="nested too deeply"):
            load(tmp_path / "d.safetensors")
    assert answers(load_whole, ConfigError, detector, "d.safetensors")


HEADS = Fdsl(4, 1).state_dict()
PUBLISHED = {"clsList.0.fbatchNorm.weight": torch.ones(4), "convRes.conv.bias": torch.ones(6)}
ODD = [
    torch.ones(4).to_sparse(),
    torch.ones(4, device="meta"),
    torch.ones(4).to(torch.float8_e5m2),
    torch.ones(4, dtype=torch.complex64),
    torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
    torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    torch.ones(4).expand(3, 4),
    torch.full((4,), float("inf")),
    "text",
    None,
    3,
    {"inner": torch.ones(4)},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(ODD)))
@pytest.mark.parametrize("name", [*PUBLISHED, 3, ("a",), "x" * 100_000, "\x1b[2J"])
def test_published_heads_of_strange_kinds(number, name):
    content = {"trainable_RR": {**PUBLISHED, name: ODD[number]}}
    assert not answers(load_checkpoint, ConfigError, pickled(content), "file.pth")


@pytest.mark.parametrize("content", [None, 3, "x", [], {}, {"trainable_RR": 3}, {3: 4}, torch.ones(3), set()])
def test_torch_files_that_hold_something_else(content):
    assert not answers(load_checkpoint, ConfigError, pickled(content), "file.pth")


def npz(arrays, pack=np.savez):
    buffer = io.BytesIO()
    pack(buffer, **arrays)
    return buffer.getvalue()


MAPS = {
    "names": np.array(["a", "b"]),
    "base": np.zeros((2, 3, 3), np.float32),
    "base_score": np.zeros(2, np.float32),
    "window": np.zeros((2, 3, 3), np.float32),
    "window_score": np.zeros(2, np.float32),
}
arrays = st.sampled_from(
    [
        np.zeros(()),
        np.zeros((2, 3, 4), np.float32),
        np.zeros((2, 0, 0), np.float32),
        np.zeros((0, 3, 3), np.float32),
        np.zeros((3, 3, 3), np.float32),
        np.zeros((2, 3, 3), np.complex64),
        np.zeros((2, 3, 3), "S3"),
        np.zeros((2, 3, 3), "M8[s]"),
        np.zeros(2, [("a", "f4")]),
        np.full((2, 3, 3), np.nan, np.float32),
        np.full(2, 1e300),
        np.array([1, 2]),
        np.array([["a", "b"]]),
    ]
)


def use_maps(file):
    found = load_maps(file)
    assert all("\n" not in name for name in found.names)
    assert found.select(found.names).maps.base.dtype.kind == "f"


def test_whole_maps_are_read():
    assert answers(use_maps, ConfigError, npz(MAPS), "maps.npz")


@often
@given(content=damaged(npz(MAPS)) | damaged(npz(MAPS, np.savez_compressed)))
def test_damaged_maps(content):
    answers(use_maps, ConfigError, content, "maps.npz")


def test_maps_that_hold_an_image_twice(tmp_path):
    (tmp_path / "maps.npz").write_bytes(npz({**MAPS, "names": np.array(["a", "a"])}))
    with pytest.raises(ConfigError, match="twice"):
        load_maps(tmp_path / "maps.npz").select(["a"])


@often
@given(more=st.dictionaries(st.sampled_from(list(MAPS)), arrays, min_size=1, max_size=2))
def test_maps_of_strange_shapes(more):
    answers(use_maps, ConfigError, npz({**MAPS, **more}), "maps.npz")


ROW = {
    "image": "a.png",
    "score": 0.5,
    "base_score": 0.5,
    "window_score": None,
    "threshold": 0.4,
    "anomalous": True,
    "boxes": [{"x": 1, "y": 2, "width": 3, "height": 4, "area": 5}],
    "pixel_threshold": 0.3,
    "regions": [],
    "picture": "pictures/a.jpg",
    "mask": "masks/a.png",
    "grid": 4,
    "size": [10, 10],
    "file": {"bytes": 3, "modified": 4, "digest": "0" * 16},
}


def stored_rows():
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), keep_maps=False)
        for name in ("a.png", "b.png"):
            journal.add({**ROW, "image": name}, None, None)
        journal.close()
        return (Path(folder) / "rows.jsonl").read_bytes()


JOURNAL = stored_rows()


@often
@given(data=st.data(), content=damaged(JOURNAL))
def test_damaged_journals(data, content):
    made_up = "\n".join(json.dumps(data.draw(changed(ROW) | leaves)) for _ in range(3)) + "\n"
    for text in (content, made_up.encode("utf-8", "surrogatepass"), DEEP.encode() + b"\n"):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "rows.jsonl").write_bytes(text)
            taken_up = RowIndex([Path(folder)], keep_maps=False)
            taken_up.holds("a.png", Path(folder) / "rows.jsonl")
            taken_up.others()


@pytest.mark.parametrize("text", [DEEP, '{"windows":' * 100_000, "[]", "3", '"x"', "\ufeff{}", "9" * 5000])
def test_a_run_that_is_no_run(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="test run"):
        read_run_config(tmp_path)


def test_links_to_themselves(tmp_path):
    for name in ("a.safetensors", "a.pth", "maps.npz", "config.json", "a.png", "folder"):
        (tmp_path / name).symlink_to(tmp_path / name)
    for load, name in (
        (load_checkpoint, "a.safetensors"),
        (load_checkpoint, "a.pth"),
        (AnomalyDetector.load, "a.safetensors"),
        (load_maps, "maps.npz"),
        (read_run_config, "."),
        (read_run_config, "folder"),
    ):
        with pytest.raises(ConfigError):
            load(tmp_path / name)
