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
from safetensors import safe_open
from safetensors.torch import save_file

from fdsl.api import AnomalyDetector, WindowConfig
from fdsl.evaluation.run_folder import read_run_config
from fdsl.scoring import NotFinite
from fdsl.store.checkpoint import load_checkpoint
from fdsl.store.detector_file import METADATA_KEY
from fdsl.store.maps import load_maps
from fdsl.store.resume_index import ResumeIndex
from fdsl.store.training_state import METADATA_KEY as UNFINISHED
from fdsl.store.training_state import TrainingState
from models.methods.fdsl import Fdsl
from tests.reliability.test_fuzz import STATE, TRAINED_WITH, answers, changed, damaged, leaves, often, pickled
from tests.support.photographs import texture
from utils.errors import ConfigError, ModelError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
DEEP = "[" * 100_000
KINDS = {
    "nearest": {"windows": WindowConfig("mul", 2, 2, 0.5, index_memory="window")},
    "plus": {"windows": WindowConfig("nan", tiles=2)},
    "subspace": {},
    "batch": {"windows": WindowConfig("nan", tiles=2)},
    "text": {},
    "nearest with text": {"with_text": True},
    "nearest with batch": {"with_batch": True, "windows": WindowConfig("mul", 2, 2, 0.5, index_memory="1")},
}
PICTURES = [texture(number) for number in range(1, 4)]
STRANGE = {
    "gone": lambda tensor: None,
    "float8": lambda tensor: tensor.float().to(torch.float8_e4m3fn),
    "whole numbers": lambda tensor: tensor.long() if tensor.is_floating_point() else tensor.double(),
    "yes and no": lambda tensor: tensor.bool(),
    "of another precision": lambda tensor: tensor.half(),
    "one number": lambda tensor: tensor.flatten()[0],
    "empty": lambda tensor: tensor[:0],
    "one row too many": lambda tensor: torch.cat([tensor, tensor[:1]]),
    "one more dimension": lambda tensor: tensor[None],
    "short at its end": lambda tensor: tensor[..., :-1].contiguous(),
    "not finite": lambda tensor: torch.full_like(tensor.double(), float("nan")),
    "below zero": lambda tensor: -1 - tensor.double().abs().to(tensor.dtype),
    "all zero": torch.zeros_like,
    "very large": lambda tensor: torch.full_like(tensor, 2**40 if tensor.dtype == torch.int64 else 1e30),
}


@pytest.fixture(scope="module")
def detectors(tiny_configs):
    """Name -> (passport, tensors) of a saved detector of each kind."""
    made = {}
    for name, more in KINDS.items():
        detector = AnomalyDetector.from_backbone(
            method=name.split()[0],
            model="ViT-tiny-test",
            pretrained="none",
            layers=(1, 3),
            image_size=32,
            device="cpu",
            precision="fp32",
            model_config=tiny_configs,
            **more,
        )
        tested = PICTURES if detector.scorer.detector.is_transductive else ()
        if name in ("batch", "text"):
            detector.fit((), test_images=tested)
        else:
            detector.fit(PICTURES, false_alarm_rate=0.01, test_images=tested)
        with tempfile.TemporaryDirectory() as folder:
            detector.save(Path(folder) / "d.safetensors")
            with safe_open(Path(folder) / "d.safetensors", "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}
                made[name] = (json.loads(file.metadata()[METADATA_KEY]), tensors)
    return made


def use(passport, tensors):
    """Loads a detector and looks at a photograph with it: it answers, or one sentence refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "d.safetensors"
        text = passport if isinstance(passport, str) else json.dumps(passport)
        save_file(tensors, file, metadata={METADATA_KEY: text})
        try:
            detector = AnomalyDetector.load(file, device="cpu")
        except (ConfigError, ModelError) as refusal:
            assert "\n" not in str(refusal) and len(str(refusal)) < 1500, str(refusal)
            return False
    try:
        found = detector.predict(PICTURES[0])
    except NotFinite:
        return False
    assert detector.heat_scale and detector.tensors() and found.boxes is not None
    if detector.normal is not None:
        detector.calibrate(0.05)
    assert np.isfinite(found.score)
    return True


@pytest.mark.parametrize("name", list(KINDS))
def test_a_saved_detector_with_a_strange_tensor(detectors, name):
    passport, tensors = detectors[name]
    assert use(passport, tensors)
    plain, _, added = name.partition(" with ")
    known = detectors[plain][1] if added else {}
    for key in tensors.keys() - known.keys():  # those of the method by itself are tried with it
        for made in STRANGE.values():
            try:
                value = made(tensors[key])
            except (IndexError, RuntimeError):
                continue  # one number has no rows
            others = {other: tensors[other] for other in tensors if other != key}
            use(passport, others if value is None else {**others, key: value.contiguous().clone()})


@pytest.mark.parametrize("name", list(KINDS))
def test_a_saved_detector_without_some_of_its_parts(detectors, name):
    passport, tensors = detectors[name]
    for part in {key.split(".")[0] for key in tensors}:
        use(passport, {key: value for key, value in tensors.items() if not key.startswith(part + ".")})


@often
@given(data=st.data())
def test_a_saved_detector_with_a_made_up_configuration(detectors, data):
    passport, tensors = detectors[data.draw(st.sampled_from(list(KINDS)))]
    use(data.draw(changed(passport)), tensors)


@pytest.mark.parametrize(
    "value", ["x" * 200_000, "\x1b]0;x\x07", "../" * 500, 10**400, [["x" * 9000]], {"x": 1}]
)
@pytest.mark.parametrize(
    "place",
    [
        "backbone.model",
        "backbone.pretrained",
        "backbone.model_config",
        "backbone.layers",
        "backbone.image_size",
        "machine.precision",
        "machine.device",
        "method",
        "format",
        "fingerprint",
        "image_score",
        "threshold",
        "threshold.score",
        "threshold.source",
        "windows.winmode",
        "options",
        "references",
    ],
)
def test_a_sentence_about_a_detector_is_as_long_as_one_reads(detectors, place, value):
    passport, tensors = detectors["nearest"]
    made = json.loads(json.dumps(passport))
    *path, last = place.split(".")
    inner = made
    for part in path:
        inner = inner[part]
    inner[last] = value
    text = json.dumps(made)
    use(text, tensors)


def test_a_passport_that_is_nested_too_deeply(detectors):
    assert not use(DEEP, detectors["nearest"][1])


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
JOURNAL = (json.dumps(ROW) + "\n").encode() * 2


@often
@given(data=st.data(), content=damaged(JOURNAL))
def test_damaged_journals(data, content):
    made_up = "\n".join(json.dumps(data.draw(changed(ROW) | leaves)) for _ in range(3)) + "\n"
    for text in (content, made_up.encode("utf-8", "surrogatepass"), DEEP.encode() + b"\n"):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "rows.jsonl").write_bytes(text)
            taken_up = ResumeIndex(Path(folder), keep_maps=False)
            taken_up.holds("a.png", Path(folder) / "rows.jsonl")
            taken_up.drop_others()


def stored_state():
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "s.safetensors").write_bytes(STATE)
        with safe_open(Path(folder) / "s.safetensors", "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return json.loads(file.metadata()[UNFINISHED]), tensors


STORED, TENSORS = stored_state()


def go_on(values, tensors):
    """Goes on with a training's state, one step further: it can, or one sentence refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "s.safetensors"
        text = values if isinstance(values, str) else json.dumps(values)
        save_file(tensors, file, metadata={UNFINISHED: text})
        module = torch.nn.Linear(2, 2)
        optimizer = torch.optim.Adam(module.parameters())
        try:
            saved = TrainingState(file, TRAINED_WITH, "x").read()
            position = saved.restore(module, optimizer)
        except ConfigError as refusal:
            assert str(refusal).isprintable() and "s.safetensors" in str(refusal), str(refusal)
            return False
        module(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert position.epoch >= 0 and position.batch >= 0
        assert all(torch.isfinite(value).all() for value in module.state_dict().values())
        TrainingState(file, TRAINED_WITH, "x").save(module, optimizer, position, saved.precision)
        return True


def test_a_state_with_a_strange_tensor():
    assert go_on(STORED, TENSORS)
    for key in TENSORS:
        for made in STRANGE.values():
            try:
                value = made(TENSORS[key])
            except (IndexError, RuntimeError):
                continue
            others = {other: TENSORS[other] for other in TENSORS if other != key}
            go_on(STORED, others if value is None else {**others, key: value.contiguous().clone()})


@often
@given(values=changed(STORED))
def test_a_state_with_made_up_values(values):
    go_on(values, TENSORS)


def test_a_state_that_is_nested_too_deeply():
    assert not go_on(DEEP, TENSORS)


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
