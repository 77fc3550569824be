"""The loaders of files from strangers, fed with damaged and made-up ones: a value or one sentence, never
another error.

FDSL_FUZZ=20000 sets the number of inputs of each test (default 60).
"""

import io
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.records import read_meta
from fdsl.config.training_config import TrainedWith
from fdsl.evaluation.run_folder import read_run_config
from fdsl.store.checkpoint import load_checkpoint, save_checkpoint
from fdsl.store.training_state import Position, TrainingState
from models.methods.fdsl import Fdsl
from tests.support.run_config import a_config, trained_with
from utils.config import WindowConfig
from utils.device import seed_everything
from utils.errors import ConfigError, DataError
from utils.options import as_stored, from_stored

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
EXAMPLES = int(os.environ.get("FDSL_FUZZ", "60"))
often = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

CONFIG = trained_with()
TRAINED_WITH = from_stored(TrainedWith, CONFIG)
META = {
    "train": {
        "cup": [
            {
                "img_path": "cup/train/good/0.png",
                "mask_path": "",
                "cls_name": "cup",
                "specie_name": "good",
                "anomaly": 0,
            }
        ]
    },
    "test": {
        "cup": [
            {
                "img_path": "cup/test/hole/0.png",
                "mask_path": "cup/ground_truth/hole/0.png",
                "cls_name": "cup",
                "specie_name": "hole",
                "anomaly": 1,
            }
        ]
    },
}
RUN = a_config(2, backbone=CONFIG["backbone"], windows=as_stored(WindowConfig("mul", 3, 2)))


def made(writer):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file.safetensors"
        writer(file)
        return file.read_bytes()


def write_state(file):
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    TrainingState(file, TRAINED_WITH).save(
        module, optimizer, Position(0, 1, [(1, 1, 0.5, 0.5, 0.5)]), "float32"
    )


def pickled(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


seed_everything(0)  # so that what is damaged is the same each time
HEADS = Fdsl(4, 1)
WHOLE = {
    ".safetensors": made(lambda file: save_checkpoint(file, HEADS.state_dict(), TRAINED_WITH)),
    ".pth": pickled(
        {"trainable_RR": {"clsList.0.fbatchNorm.weight": torch.ones(4), "convRes.conv.bias": torch.ones(6)}}
    ),
}
STATE = made(write_state)


@st.composite
def damaged(draw, whole):
    """A file with bytes changed, taken out, repeated or added, most often near its start, where what is
    reported lies."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(
            st.integers(0, min(len(content), draw(st.sampled_from([16, 400, 4000, len(content) or 1]))))
        )
        kind = draw(st.sampled_from(["change", "cut", "take", "add", "repeat", "digit"]))
        if kind == "change":
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "cut":
            del content[place:]
        elif kind == "take":
            del content[place : place + draw(st.integers(1, 64))]
        elif kind == "add":
            content[place:place] = draw(st.binary(min_size=1, max_size=32))
        elif kind == "repeat":
            content[place:place] = content[place : place + draw(st.integers(1, 64))]
        else:
            content[place : place + 1] = draw(
                st.sampled_from([b"0", b"9", b'"', b"}", b"-", b"[", b"\\", b"\xff"])
            )
    return bytes(content)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
values = leaves | st.lists(leaves, max_size=3) | st.dictionaries(st.text(max_size=6), leaves, max_size=3)


@st.composite
def changed(draw, whole):
    """A JSON value with some of its parts, at any depth, replaced, taken out or renamed."""
    copy = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        node = copy
        while isinstance(node, (dict, list)) and node:
            key = (
                draw(st.sampled_from(sorted(node)))
                if isinstance(node, dict)
                else draw(st.integers(0, len(node) - 1))
            )
            if not isinstance(node[key], (dict, list)) or not node[key] or draw(st.integers(0, 3)) == 0:
                kind = draw(st.sampled_from(["replace", "take", "rename"]))
                value = node.pop(key)
                if kind == "replace" and isinstance(node, dict):
                    node[key] = draw(values)
                elif kind == "replace":
                    node.insert(key, draw(values))
                elif kind == "rename" and isinstance(node, dict):
                    node[draw(st.text(max_size=6))] = value
                break
            node = node[key]
    return copy


def answers(read, error, content, name):
    """Writes `content` to a file called `name`; True where it was read, False where one sentence that names
    it refused it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        try:
            read(file)
            return True
        except error as refusal:
            assert name in str(refusal) and str(refusal).isprintable(), str(refusal)
            return False


@pytest.mark.parametrize("suffix", list(WHOLE))
@often
@given(data=st.data())
def test_damaged_checkpoints(suffix, data):
    content = data.draw(damaged(WHOLE[suffix]))

    def read(file):
        found = load_checkpoint(file)
        Fdsl(found.width, found.blocks, with_nam=found.has_nam).load_state_dict(found.state)

    answers(read, ConfigError, content, f"file{suffix}")


@often
@given(content=damaged(STATE))
def test_damaged_states_of_a_training(content):
    def read(file):
        module = torch.nn.Linear(2, 2)
        TrainingState(file, TRAINED_WITH).read().restore(module, torch.optim.Adam(module.parameters()))

    answers(read, ConfigError, content, "file.safetensors")


def safe_catalogue(file):
    catalogue = read_meta(file, file.parent)
    for records in [*catalogue.train.values(), *catalogue.test.values()]:
        for record in records:
            for path in filter(None, (record.image_path, record.mask_path)):
                assert Path(os.path.normpath(file.parent / path)).is_relative_to(file.parent)


@often
@given(content=damaged(json.dumps(META).encode()))
def test_damaged_meta_json(content):
    answers(safe_catalogue, DataError, content, "meta.json")


@often
@given(content=changed(META))
def test_made_up_meta_json(content):
    answers(safe_catalogue, DataError, json.dumps(content).encode(), "meta.json")


@often
@given(content=changed(RUN))
def test_made_up_configurations_of_a_run(content):
    answers(
        lambda file: read_run_config(file.parent), ConfigError, json.dumps(content).encode(), "config.json"
    )


def test_what_is_whole_is_read():
    assert answers(load_checkpoint, ConfigError, WHOLE[".safetensors"], "file.safetensors")
    assert answers(safe_catalogue, DataError, json.dumps(META).encode(), "meta.json")
    assert answers(
        lambda file: read_run_config(file.parent), ConfigError, json.dumps(RUN).encode(), "config.json"
    )
