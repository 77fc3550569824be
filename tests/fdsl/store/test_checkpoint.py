"""Checkpoints: what is written comes back; what is broken, foreign or malicious is refused with a
sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fdsl.config.training_config import TrainedWith
from fdsl.store.checkpoint import is_trained, load_checkpoint, published_name, save_checkpoint
from models.methods.fdsl import Fdsl
from tests.support.run_config import trained_with
from utils.errors import ConfigError
from utils.options import as_stored, from_stored

CONFIG = trained_with()
TRAINED_WITH = from_stored(TrainedWith, CONFIG)


@pytest.fixture
def saved(tmp_path):
    heads = Fdsl(16, 2)
    save_checkpoint(tmp_path / "visa.safetensors", heads.state_dict(), TRAINED_WITH)
    return tmp_path / "visa.safetensors", heads


def test_round_trip(saved):
    file, heads = saved
    found = load_checkpoint(file)
    assert (found.width, found.blocks, found.has_nam) == (16, 2, True) and found.config is not None
    assert found.config == TRAINED_WITH and as_stored(found.config) == CONFIG
    assert all(torch.equal(found.state[name], value) for name, value in heads.state_dict().items())
    assert Fdsl(16, 2).load_state_dict(found.state)


def test_without_nam(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", Fdsl(16, 2, with_nam=False).state_dict(), TRAINED_WITH)
    assert not load_checkpoint(tmp_path / "a.safetensors").has_nam


def test_trained_already_means_the_same_settings_on_any_machine(saved):
    file, _ = saved
    other = json.loads(json.dumps(CONFIG))
    other["training"]["machine"]["device"] = "cuda:0"
    other["backbone"]["pretrained"] = "elsewhere"
    assert is_trained(file, from_stored(TrainedWith, other))
    for part, name, value in (
        ("training", "epochs", 3),
        ("backbone", "image_size", 64),
        ("options", "fd", "none"),
    ):
        changed = json.loads(json.dumps(CONFIG))
        changed[part][name] = value
        assert not is_trained(file, from_stored(TrainedWith, changed))
    assert not is_trained(file.with_name("missing.safetensors"), TRAINED_WITH)


def test_published_names():
    assert published_name("clsList.2.fbatchNorm.running_var") == "heads.2.layers.0.running_var"
    assert published_name("clsList.0.proj.9.bias") == "heads.0.layers.10.bias"
    assert published_name("convRes.conv.weight") == "nam.conv1.weight"
    assert published_name("convRes.conv2.bias") == "nam.conv2.bias"
    assert published_name("zeroClsModule.zero_clsList.0.proj.0.weight") is None


def test_published_checkpoint_fills_the_heads_strictly(tmp_path):
    heads = Fdsl(16, 2)
    theirs = {"adapterList.0.weight": torch.zeros(3)}
    for name, value in heads.state_dict().items():
        parts = name.split(".")
        if parts[0] == "nam":
            theirs[f"convRes.{'conv' if parts[1] == 'conv1' else 'conv2'}.{parts[2]}"] = value
        elif parts[3] == "0":
            theirs[f"clsList.{parts[1]}.fbatchNorm.{parts[4]}"] = value
        else:
            theirs[f"clsList.{parts[1]}.proj.{int(parts[3]) - 1}.{parts[4]}"] = value
    torch.save({"trainable_RR": theirs}, tmp_path / "their.pth")
    found = load_checkpoint(tmp_path / "their.pth")
    assert found.config is None and found.has_nam
    assert Fdsl(16, 2).load_state_dict(found.state)


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def broken_files(folder, saved):
    whole = saved.read_bytes()
    (folder / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "lying.safetensors").write_bytes((2**60).to_bytes(8, "little") + whole[8:])
    (folder / "text.pth").write_text("hello")
    save_file({"a": torch.zeros(2)}, folder / "foreign.safetensors")
    save_checkpoint(folder / "noheads.safetensors", {"a": torch.zeros(2)}, TRAINED_WITH)
    save_checkpoint(
        folder / "nan.safetensors",
        {
            name: value * float("nan") if value.is_floating_point() else value
            for name, value in Fdsl(16, 2).state_dict().items()
        },
        TRAINED_WITH,
    )
    save_file(
        Fdsl(16, 2).state_dict(),
        folder / "future.safetensors",
        metadata={"fdsl": json.dumps({**CONFIG, "format": 99})},
    )
    torch.save({"trainable_RR": Malicious()}, folder / "malicious.pth")
    torch.save({"other": {}}, folder / "other.pth")
    return [*folder.glob("*.safetensors"), *folder.glob("*.pth"), folder / "missing.safetensors"]


def test_every_broken_file_is_one_sentence_that_names_it(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    files = broken_files(tmp_path / "broken", saved[0])
    assert len(files) == 11
    for file in files:
        with pytest.raises(ConfigError) as caught:
            load_checkpoint(file)
        assert file.name in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    file, _ = saved
    before = file.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        save_checkpoint(file, Fdsl(16, 2).state_dict(), TRAINED_WITH)
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]
