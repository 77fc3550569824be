"""Weights files as others publish them, and as strangers make them: the same encoder, or one sentence."""

import argparse
import io
import os
import pickle
import zipfile
from pathlib import PurePosixPath

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from fdsl.store.checkpoint import load_checkpoint
from models.backbones.weights_io.check_weights import fingerprint
from tests.support.backbones import backbone_of
from utils.errors import ConfigError, ModelError

often = settings(
    max_examples=int(os.environ.get("FDSL_FUZZ", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class Node(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def put(root, name, value):
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, Node())
        root = getattr(root, part)
    root.register_parameter(last, nn.Parameter(value, requires_grad=False))


def script_archive(state, file):
    """A whole CLIP as OpenAI's files hold it: a program, the encoder in half precision, numbers as
    buffers."""
    clip = Node()
    for name, value in state.items():
        put(clip, f"visual.{name}", value.half())
    put(clip, "token_embedding.weight", torch.zeros(8, 4))
    for name, value in (("input_resolution", 32), ("context_length", 77)):
        clip.register_buffer(name, torch.tensor(value))
    torch.jit.script(clip).save(str(file))


def of_transformers(state):
    """An encoder's state dict in the names of transformers' CLIPModel, written out block by block."""
    found = {
        "vision_model.embeddings.class_embedding": state["class_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "vision_model.embeddings.patch_embedding.weight": state["conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "visual_projection.weight": state["proj"].T.contiguous(),
        "text_model.final_layer_norm.weight": torch.ones(4),
        "logit_scale": torch.ones(()),
    }
    for kind in ("weight", "bias"):
        found[f"vision_model.pre_layrnorm.{kind}"] = state[f"ln_pre.{kind}"]
        found[f"vision_model.post_layernorm.{kind}"] = state[f"ln_post.{kind}"]
        for layer in range(3):
            own, theirs = f"transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}"
            for letter, part in zip("qkv", state[f"{own}.attn.in_proj_{kind}"].chunk(3), strict=True):
                found[f"{theirs}.self_attn.{letter}_proj.{kind}"] = part.clone()
            for ours, name in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                found[f"{theirs}.{name}.{kind}"] = state[f"{own}.{ours}.{kind}"]
    return found


@pytest.fixture
def state(tiny_configs):
    torch.manual_seed(0)
    own = backbone_of("ViT-tiny-test", "none", [1], model_config=tiny_configs).visual.state_dict()
    return {name: torch.randn_like(value) for name, value in own.items()}


@pytest.fixture
def load(tiny_configs):
    return lambda file: backbone_of("ViT-tiny-test", str(file), [1, 3], model_config=tiny_configs)


def test_an_archive_as_openai_publishes_it_is_read(tmp_path, state, load):
    script_archive(state, tmp_path / "ViT.pt")
    wanted = {name: value.half().float() for name, value in state.items()}
    assert load(tmp_path / "ViT.pt").fingerprint == fingerprint(wanted)
    encoder = torch.jit.load(str(tmp_path / "ViT.pt")).state_dict()  # torch's own reader, which may run it
    assert torch.equal(
        load(tmp_path / "ViT.pt").visual.state_dict()["transformer.resblocks.2.mlp.c_fc.weight"],
        encoder["visual.transformer.resblocks.2.mlp.c_fc.weight"].float(),
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_the_names_of_transformers_are_read(tmp_path, state, load, suffix):
    file = tmp_path / f"model{suffix}"
    theirs = of_transformers(state)
    save_file(theirs, file) if suffix == ".safetensors" else torch.save(theirs, file)
    assert load(file).fingerprint == fingerprint(state)


def test_a_encoder_of_transformers_alone_names_the_file_to_fetch(tmp_path, state, load):
    theirs = of_transformers(state)
    del theirs["visual_projection.weight"]
    save_file(theirs, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"fetch the model\.safetensors of the whole CLIP"):
        load(tmp_path / "model.safetensors")


def expanded(rows):
    return torch.zeros(1).expand(rows, 32)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("ln_post.bias", torch.zeros(32).to_sparse(), "ln_post.bias is none"),
        ("ln_post.bias", torch.zeros(32, device="meta"), "ln_post.bias is none"),
        ("ln_post.bias", torch.zeros(32, dtype=torch.float8_e4m3fn), "float8_e4m3fn in ln_post.bias"),
        ("ln_post.bias", torch.zeros(32, dtype=torch.int64), "int64 in ln_post.bias"),
        ("ln_post.bias", torch.full((32,), 1e300, dtype=torch.float64), "not finite (ln_post.bias)"),
        ("ln_post.bias", torch.quantize_per_tensor(torch.zeros(32), 1.0, 0, torch.qint8), "is none"),
        (7, torch.zeros(32), "7 is none"),
        ("ln_post.bias", 1.0, "ln_post.bias is none"),
        ("positional_embedding", expanded(10**12 + 1), "positional_embedding is none"),
        ("positional_embedding", torch.zeros(0, 32), "of another shape: positional_embedding"),
        ("positional_embedding", torch.zeros(1, 32), "of another shape: positional_embedding"),
        ("x\x1b[31m" * 10_000, torch.zeros(1), "not of the image encoder: x\\x1b[31m"),
    ],
)
def test_tensors_that_are_no_weights_are_named(tmp_path, state, load, name, value, words):
    torch.save({**state, name: value}, tmp_path / "w.pt")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "w.pt")
    assert words in str(caught.value) and str(caught.value).isprintable()
    assert len(str(caught.value)) < 700 + len(str(tmp_path))


def archive_with(table, file, records=()):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (("data.pkl", table), ("constants.pkl", b""), *records):
            archive.writestr(f"w/{name}", content)


class Malicious:
    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (pathlib.Path("executed"),)


SHAPE_OF_A_TERABYTE = (
    b"\x80\x02c__torch__\nClip\n)\x81}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n"
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    b"K\x00J\xff\xff\xff\x7fK\x20\x86K\x00K\x00\x86\x89}tRsb."
)


@pytest.mark.parametrize(
    "table, words",
    [
        (pickle.dumps(Malicious()), "names pathlib"),
        (pickle.dumps({"visual.w": 1}, 2), "holds no module"),
        (b"\x80\x02c__torch__\nClip\n}b.", "more than tensors"),  # sets something on the class
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x01\x00\x00\x00aNs\x86b.", "changes a function"),
        (SHAPE_OF_A_TERABYTE, "more values than it has bytes for"),
        (b"\x80\x02c__torch__\nClip\n)\x81r\xff\xff\xff\xff}b.", "asks for 4,294,967,295 places"),
        (b"", "not a plain weights file"),
    ],
)
def test_an_archive_runs_nothing_and_takes_no_more_than_it_holds(tmp_path, load, table, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive_with(table, tmp_path / "w.pt", [("data/0", b"\0" * 4)])
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "w.pt")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@often
@given(data=st.data())
def test_a_damaged_archive_is_a_encoder_or_one_sentence(data, tmp_path_factory, tiny_configs):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    whole = folder / "whole.pt"
    if not whole.exists():
        own = backbone_of("ViT-tiny-test", "none", [1], model_config=tiny_configs).visual.state_dict()
        script_archive(own, whole)
    with zipfile.ZipFile(whole) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    table = next(name for name in parts if name.endswith("/data.pkl"))
    content = bytearray(parts[table])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=8))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, old in parts.items():
            archive.writestr(name, bytes(content) if name == table else old)
    (folder / "w.pt").write_bytes(buffer.getvalue())
    try:
        backbone_of("ViT-tiny-test", str(folder / "w.pt"), [1], model_config=tiny_configs)
    except ModelError as error:
        assert "\n" not in str(error)


WRAPPED = {
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "DeiT and MAE": lambda state: {
        "model": state,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 3,
    },
    "DINO": lambda state: {
        "student": {f"module.backbone.{name}": value + 1 for name, value in state.items()},
        "teacher": {f"backbone.{name}": value for name, value in state.items()}
        | {"head.mlp.0.weight": torch.ones(3, 3)},
        "iteration": 7,
    },
    "DINOv2": lambda state: {
        "model": {f"student.backbone.{name}": value + 1 for name, value in state.items()}
        | {f"teacher.backbone.{name}": value for name, value in state.items()}
        | {"dino_loss.center": torch.ones(1, 5)}
    },
    "Lightning": lambda state: {
        "state_dict": {f"model.{name}": value for name, value in state.items()}
        | {"loss.weight": torch.ones(2)},
        "pytorch-lightning_version": "2.4",
        "hyper_parameters": {"lr": 1e-3},
    },
    "torch.compile": lambda state: {
        "state_dict": {f"_orig_mod.{name}": value for name, value in state.items()}
    },
    "several": lambda state: {
        "state_dict": {f"module._orig_mod.net.encoder.{name}": value for name, value in state.items()}
    },
    "timm": lambda state: {
        "state_dict": {n: v + 1 for n, v in state.items()},
        "state_dict_ema": state,
        "epoch": 1,
    },
    "I-JEPA": lambda state: {
        "encoder": {f"module.{name}": value + 1 for name, value in state.items()},
        "target_encoder": {f"module.{name}": value for name, value in state.items()},
        "opt": {"state": {}},
    },
}


@pytest.mark.parametrize("whole", [True, False], ids=["a whole CLIP", "its encoder"])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_weights_as_trainings_leave_them_are_read(tmp_path, state, load, wrapped, whole, logged):
    given = {f"visual.{name}": value for name, value in state.items()} if whole else state
    given |= {"logit_scale": torch.ones(())} if whole else {}
    torch.save(WRAPPED[wrapped](given), tmp_path / "model.pth")
    assert load(tmp_path / "model.pth").fingerprint == fingerprint(state)
    assert "model.pth: the weights under" in logged()


@pytest.mark.parametrize("names", [("left", "right"), ("a.b", "b.a"), ("teacher_a", "teacher_b")])
def test_of_several_models_none_is_taken_at_random(tmp_path, state, load, names):
    torch.save({f"{one}.{name}": value for one in names for name, value in state.items()}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match=f"m.pt holds several models \\({', '.join(names)}\\); save"):
        load(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "more, named",
    [
        (argparse.Namespace(lr=1e-3), "argparse.Namespace"),
        (PurePosixPath("a"), "pathlib.PurePosixPath"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_a_checkpoint_with_an_object_is_one_sentence_of_our_own(tmp_path, state, load, more, named):
    torch.save({"model": state, "args": more}, tmp_path / "model.pth")
    for look in (load, load_checkpoint):
        with pytest.raises((ModelError, ConfigError)) as refused:
            look(tmp_path / "model.pth")
        sentence = str(refused.value)
        assert (
            f"was refused: it holds a Python object ({named}), and nothing in a file is executed" in sentence
        )
        assert sentence.isprintable() and "weights_only" not in sentence and "x1b" not in sentence
