"""The frozen backbone: what is passed to open_clip, what comes back, and what is refused."""

import json
import logging
import os
import re
from collections import OrderedDict
from copy import deepcopy
from types import SimpleNamespace

import open_clip
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file

from models.backbone import normalise
from models.backbones import cpu_attention, open_clip_loading
from models.backbones.open_clip import OpenClipBackbone, resize_position_table
from models.backbones.open_clip_loading import _new_encoder
from models.backbones.weights_io.check_weights import fingerprint
from models.backbones.weights_io.choose_weights import UNTRAINED_SEED, announce
from models.features import EMBEDDING
from tests.support import plain
from tests.support.backbones import backbone_of
from tests.support.constants import TINY
from tests.support.small_runs import write_model_config
from tests.support.tokens import noise
from utils.errors import ModelError


@pytest.fixture(autouse=True)
def no_hub_is_asked(monkeypatch):
    monkeypatch.setattr(open_clip_loading, "announce", lambda *_: None)


def encoder(configs, **changes):
    return backbone_of(
        "ViT-tiny-test",
        changes.pop("pretrained", "none"),
        changes.pop("layers", [1, 3]),
        model_config=configs,
        **changes,
    )


def test_tokens_are_the_raw_normalised_block_outputs(tiny_backbone):
    image = torch.randn(3, 32, 32)
    found = tiny_backbone.encode_normalised(image[None], frozenset({EMBEDDING}))
    expected = plain.tokens_of(tiny_backbone.visual, image, (1, 3))
    assert found.tokens.shape == (2, 1, 16, 32)
    assert torch.allclose(found.tokens[:, 0], expected, atol=1e-5)
    pooled = tiny_backbone.visual(image[None])[0]
    assert torch.allclose(found.embedding[0], pooled / pooled.norm(), atol=1e-5)


def test_a_encoder_with_a_buffer_that_no_file_holds_is_filled_too(tiny_configs, tmp_path, monkeypatch):
    """Files make encoders without values; what is not in the file has to come from the encoder's own
    construction."""
    state = encoder(tiny_configs).visual.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "encoder.safetensors")
    made = _new_encoder

    def with_buffer(model, device):
        visual = made(model, device)
        visual.register_buffer("angles", torch.ones(3), persistent=False)
        return visual

    monkeypatch.setattr(open_clip_loading, "_new_encoder", with_buffer)
    visual = encoder(tiny_configs, pretrained=str(tmp_path / "encoder.safetensors")).visual
    assert torch.equal(visual.angles, torch.ones(3)) and all(
        torch.equal(visual.state_dict()[name], state[name]) for name in state
    )


def test_stopping_early_does_not_change_the_tokens(tiny_configs):
    early = encoder(tiny_configs, layers=[1, 2])
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(
        early.encode_normalised(images).tokens, early.encode_normalised(images, frozenset({EMBEDDING})).tokens
    )
    assert early.encode_normalised(images).embedding is None


def test_a_batch_gives_what_single_images_give(tiny_backbone):
    images = torch.randn(3, 3, 48, 48)
    together = tiny_backbone.encode_normalised(images).tokens
    alone = torch.cat([tiny_backbone.encode_normalised(image[None]).tokens for image in images], dim=1)
    assert torch.allclose(together, alone, atol=1e-6)


def test_one_set_of_weights_serves_every_grid_and_keeps_its_native_table(tiny_backbone):
    small, large = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 64, 64)
    first = tiny_backbone.encode_normalised(large).tokens
    assert tiny_backbone.encode_normalised(small).tokens.shape[2] == 4
    assert torch.equal(tiny_backbone.encode_normalised(large).tokens, first)
    assert len(tiny_backbone.native_table) == 17


def test_position_table_is_resized_as_open_clip_does(tiny_configs):
    backbone = encoder(tiny_configs)
    state = {"visual.positional_embedding": backbone.native_table.clone()}

    class Model:
        visual = type("Visual", (), {"grid_size": (7, 7)})()

    open_clip.model.resize_pos_embed(state, Model)
    assert torch.allclose(
        resize_position_table(backbone.native_table, 7), state["visual.positional_embedding"]
    )


def test_frozen_whatever_the_caller_does(tiny_backbone):
    tiny_backbone.train()
    assert not any(module.training for module in tiny_backbone.modules())
    assert not any(parameter.requires_grad for parameter in tiny_backbone.parameters())
    assert not tiny_backbone.encode(noise(1, 3, 32, 32)).tokens.requires_grad


def test_bf16_tokens_are_near_float32_ones(tiny_configs):
    exact, rough = encoder(tiny_configs), encoder(tiny_configs, dtype=torch.bfloat16)
    images = torch.randn(2, 3, 32, 32)
    assert rough.encode_normalised(images).tokens.dtype == torch.bfloat16
    assert (
        torch.nn.functional.cosine_similarity(
            exact.encode_normalised(images).tokens, rough.encode_normalised(images).tokens.float(), dim=-1
        ).min()
        > 0.999
    )
    assert exact.fingerprint == rough.fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_quick_gelu_in_one_pass_is_as_near_as_in_three(dtype):
    generator = torch.Generator().manual_seed(0)
    first, last = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)
    for layer in (first, last):
        torch.nn.init.normal_(layer.weight, std=0.1, generator=generator)
        torch.nn.init.normal_(layer.bias, generator=generator)
    parts = OrderedDict(c_fc=first, gelu=open_clip.transformer.QuickGELU(), c_proj=last)
    tokens = torch.randn(3, 40, 64, generator=generator)
    mlp = torch.nn.Sequential(parts)
    with torch.no_grad():
        right = deepcopy(mlp).double()(tokens.double())
        own = cpu_attention.QuickGeluMlp(first, last).to(dtype)
        found, three = own(tokens.to(dtype)), mlp.to(dtype)(tokens.to(dtype))
    assert found.shape == tokens.shape and own.state_dict().keys() == {
        f"{layer}.{value}" for layer in ("c_fc", "c_proj") for value in ("weight", "bias")
    }
    assert (found - right).abs().mean() < 1.1 * (three - right).abs().mean() < 0.02


def test_only_narrow_blocks_with_quick_gelu_compute_it_in_one_pass(tmp_path, tiny_configs):
    quick = write_model_config(tmp_path, quick_gelu=True)
    for configs, dtype, one_pass in (
        (quick, torch.bfloat16, True),
        (quick, torch.float32, False),
        (tiny_configs, torch.bfloat16, False),
    ):
        kinds = {type(block.mlp) for block in encoder(configs, dtype=dtype).visual.transformer.resblocks}
        assert kinds == {cpu_attention.QuickGeluMlp if one_pass else torch.nn.Sequential}


def test_only_the_products_of_the_blocks_are_narrow(tiny_configs):
    exact, mixed, whole = (
        encoder(tiny_configs, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float32)
    )
    whole.visual.to(torch.bfloat16)
    block = mixed.visual.transformer.resblocks[0]
    assert block.attn.in_proj_weight.dtype == block.mlp.c_fc.weight.dtype == torch.bfloat16
    assert block.ln_1.weight.dtype == mixed.visual.conv1.weight.dtype == torch.float32
    images = torch.randn(4, 3, 32, 32)
    right = exact.encode_normalised(images).tokens
    error, error_of_whole = (
        (encoder.encode_normalised(images).tokens.float() - right).norm(dim=-1).mean()
        for encoder in (mixed, whole)
    )
    assert error < 0.8 * error_of_whole


@pytest.mark.parametrize("images, tokens", [(1, 5), (3, 197), (2, 400)])
def test_attention_by_products_is_attention(images, tokens, monkeypatch):
    monkeypatch.setattr(
        cpu_attention, "ATTENTION_SCORES", 2 * 192 * 400
    )  # so that images come one by one too
    query, key, value = torch.randn(3, images, 2, tokens, 16)
    found = cpu_attention.attention_by_products(query, key, value)
    assert torch.allclose(
        found, torch.nn.functional.scaled_dot_product_attention(query, key, value), atol=1e-6
    )
    narrow = cpu_attention.attention_by_products(*(part.bfloat16() for part in (query, key, value)))
    assert torch.allclose(narrow.float(), found, atol=0.03)


@pytest.mark.parametrize("unit, wanted", [("AVX512-BF16", True), ("AMX", False), (None, False)])
def test_attention_by_products_is_for_bf16_on_a_cpu_with_avx512_bf16(unit, wanted, monkeypatch):
    """With neither unit, as on AVX2, products of bf16 take many times as long as the kernel."""
    monkeypatch.setattr(cpu_attention, "bf16_in_hardware", lambda: unit)
    beat, cpu = cpu_attention.products_beat_the_kernel, torch.device("cpu")
    assert beat(cpu, torch.bfloat16) is wanted
    assert not beat(cpu, torch.float32) and not beat(torch.device("meta"), torch.bfloat16)


def test_untrained_weights_come_from_a_fixed_seed_and_leave_the_global_one_alone(tiny_configs):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = encoder(tiny_configs)
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(UNTRAINED_SEED + 1)
    assert encoder(tiny_configs).fingerprint == first.fingerprint


def test_tag_is_passed_to_open_clip_with_the_names_of_openai(monkeypatch, tiny_configs):
    asked = {}
    untrained = open_clip.create_model

    def create_model(model, **options):
        asked.update(model=model, **options)
        open_clip.add_model_config(tiny_configs)
        return untrained("ViT-tiny-test", pretrained=None)

    monkeypatch.setattr(open_clip, "create_model", create_model)
    backbone_of("ViT-L-14-336-quickgelu", "openai", [1, 2])
    assert asked["model"] == "ViT-L-14-336-quickgelu" and asked["pretrained"] == "openai"
    assert asked["precision"] == "fp32" and asked["device"] == "cpu"
    source = open_clip.get_pretrained_cfg("ViT-L-14-336-quickgelu", "openai")
    assert source["quick_gelu"] and source["mean"] == (0.48145466, 0.4578275, 0.40821073)
    assert open_clip.get_model_config("ViT-L-14-336-quickgelu")["quick_gelu"]


def test_plain_gelu_with_openai_weights_is_said(monkeypatch, tiny_configs, caplog):
    untrained = open_clip.create_model
    open_clip.add_model_config(tiny_configs)
    monkeypatch.setattr(
        open_clip, "create_model", lambda *_, **__: untrained("ViT-tiny-test", pretrained=None)
    )
    monkeypatch.setattr(logging.getLogger("fdsl"), "propagate", True)
    backbone_of("ViT-L-14-336", "openai", [1])
    assert "QuickGELU" in caplog.text


def test_size_and_address_are_logged_before_weights_are_fetched(monkeypatch, caplog):
    """Of the first file that the hub has; nothing is asked where one is in the cache."""
    asked, here = [], []

    def metadata(address, timeout):
        asked.append((address.rpartition("/")[2], timeout))
        if address.endswith("safetensors"):
            raise EntryNotFoundError("no such file")
        return SimpleNamespace(size=890_000_000)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", metadata)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "a file" if here else None)
    monkeypatch.setattr(logging.getLogger("fdsl"), "propagate", True)
    caplog.set_level(logging.INFO, "fdsl")
    announce("openai", "timm/vit.openai", ["a.safetensors", "b.bin"], torch.nn.Identity)
    assert asked == [("a.safetensors", 5), ("b.bin", 5)]
    assert re.search(r"fetching 890 MB \(once\): https?://.*/timm/vit.openai/.*/b.bin", caplog.text)
    here.append(True)
    announce("openai", "timm/vit.openai", ["a.safetensors"], torch.nn.Identity)
    assert len(asked) == 2


def test_a_hub_that_does_not_answer_is_given_up_at_once(monkeypatch):
    def silent(*_, **__):
        raise OSError("no route to host\nand much more")

    monkeypatch.setattr(open_clip_loading, "announce", announce)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", silent)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    plain = open_clip.create_model
    monkeypatch.setattr(
        *(open_clip, "create_model"),
        lambda *given, pretrained, **how: (
            plain(*given, pretrained=pretrained, **how)
            if pretrained is None
            else pytest.fail("it is fetched all the same")
        ),
    )
    with pytest.raises(ModelError) as caught:
        backbone_of("ViT-L-14-336-quickgelu", "openai", [6])
    text = str(caught.value)
    assert "(no route to host)" in text and "--pretrained FILE" in text and "\n" not in text
    assert re.search(r"download https?://\S+/open_clip_model.safetensors \(about 1712 MB\) ", text)


def test_weights_that_cannot_be_fetched_say_what_to_download(monkeypatch):
    def no_network(*_, **__):
        raise RuntimeError("no route to host\nand much more")

    monkeypatch.setattr(open_clip, "create_model", no_network)
    with pytest.raises(ModelError) as caught:
        backbone_of("ViT-L-14-336-quickgelu", "openai", [6])
    text = str(caught.value)
    assert (
        "timm/vit_large_patch14_clip_336.openai" in text and "--pretrained FILE" in text and "\n" not in text
    )


@pytest.mark.parametrize(
    "prefix, suffix",
    [("visual.", ".safetensors"), ("", ".safetensors"), ("visual.", ".pt"), ("module.visual.", ".pt")],
)
def test_a_file_fills_the_encoder(tmp_path, tiny_configs, prefix, suffix):
    state = {
        name: torch.randn_like(value) for name, value in encoder(tiny_configs).visual.state_dict().items()
    }
    saved = {prefix + name: value for name, value in state.items()}
    if prefix:
        saved[prefix.replace("visual.", "") + "token_embedding.weight"] = torch.zeros(4, 4)
    file = tmp_path / f"weights{suffix}"
    save_file(saved, file) if suffix == ".safetensors" else torch.save({"state_dict": saved}, file)
    assert encoder(tiny_configs, pretrained=str(file)).fingerprint == fingerprint(state)


def test_a_file_with_another_native_grid_is_taken(tmp_path, tiny_configs):
    state = dict(encoder(tiny_configs).visual.state_dict())
    state["positional_embedding"] = torch.randn(1 + 9, 32)
    save_file(state, tmp_path / "w.safetensors")
    backbone = encoder(tiny_configs, pretrained=str(tmp_path / "w.safetensors"))
    assert (
        len(backbone.native_table) == 10
        and backbone.encode_normalised(torch.randn(1, 3, 32, 32)).tokens.shape[2] == 16
    )


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_file_of_narrow_weights_is_worked_with_as_one_of_float32(tmp_path, tiny_configs, stored, dtype):
    """Half of a file may be narrow, as open_clip stores half-precision models; sums have to stay in float32
    all the same."""
    kind = torch.float16 if stored == "mixed" else getattr(torch, stored)
    narrow = {
        name: value.to(kind) if stored != "mixed" or ".mlp." in name or "out_proj" in name else value
        for name, value in encoder(tiny_configs).visual.state_dict().items()
    }
    save_file(narrow, tmp_path / "narrow.safetensors")
    save_file({name: value.float() for name, value in narrow.items()}, tmp_path / "wide.safetensors")
    found, wanted = (
        encoder(tiny_configs, pretrained=str(tmp_path / f"{name}.safetensors"), dtype=dtype)
        for name in ("narrow", "wide")
    )
    images = torch.randn(2, 3, 32, 32)
    assert (
        torch.equal(found.encode_normalised(images).tokens, wanted.encode_normalised(images).tokens)
        and found.fingerprint == wanted.fingerprint
    )


def test_an_incomplete_or_wrong_file_is_refused_with_the_names(tmp_path, tiny_configs):
    state = dict(encoder(tiny_configs).visual.state_dict())
    part = {name: value for name, value in state.items() if name != "ln_post.weight"}
    wide = {**state, "conv1.weight": torch.zeros(40, 3, 8, 8)}
    nan = {**state, "ln_post.bias": torch.full((32,), float("nan"))}
    for content, expected in (
        (part, "missing: ln_post.weight"),
        (wide, "of another shape: conv1.weight"),
        ({**state, "strange": torch.zeros(1)}, "not of the image encoder: strange"),
        (nan, "not finite (ln_post.bias)"),
        ({name: torch.zeros_like(value) for name, value in state.items()}, "nothing but zeros"),
    ):
        save_file(content, tmp_path / "w.safetensors")
        with pytest.raises(ModelError, match="--pretrained") as caught:
            encoder(tiny_configs, pretrained=str(tmp_path / "w.safetensors"))
        assert expected in str(caught.value)


class Malicious:
    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (pathlib.Path("executed"),)


def test_nothing_in_a_weights_file_is_executed(tmp_path, tiny_configs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, "w.pt")
    (tmp_path / "text.safetensors").write_text("not weights at all")
    for file in ("w.pt", "text.safetensors"):
        with pytest.raises(ModelError, match=file):
            encoder(tiny_configs, pretrained=file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model": "ViT-L-14-33"}, "near names: ViT-L-14-336"),
        ({"layers": [4]}, "between 1 and 3"),
        ({"layers": [1, 1]}, "distinct"),
        ({"pretrained": "openia"}, "neither a file nor a tag"),
        ({"model": "RN50"}, "not a Vision Transformer"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(tiny_configs, change, words):
    asked = {
        "model": "ViT-tiny-test",
        "pretrained": "none",
        "layers": [1],
        "model_config": tiny_configs,
        **change,
    }
    with pytest.raises(ModelError) as caught:
        backbone_of(**asked)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "vision, words",
    [
        (
            {"timm_model_name": "resnet10t", "timm_model_pretrained": False, "image_size": 32},
            "Odd-encoder is no plain Vision Transformer",
        ),
        ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}, "ModifiedResNet, not a Vision Transformer"),
        ({**TINY["vision_cfg"], "image_size": [32, 40]}, "images of 32 x 40 px"),
        ({**TINY["vision_cfg"], "patch_size": [8, 16]}, "patches of 8 x 16 px"),
        ({**TINY["vision_cfg"], "depth": 3}, "cannot be built from its open_clip configuration"),
        ({**TINY["vision_cfg"], "norm_kwargs": {"eps": "x"}}, "cannot be built from its open_clip"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_a_encoder_that_cannot_be_worked_with_is_one_sentence_with_weights_or_without(
    tmp_path, tiny_configs, vision, words, from_file
):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/Odd-encoder.json").write_text(json.dumps({**TINY, "vision_cfg": vision}))
    save_file(dict(encoder(tiny_configs).visual.state_dict()), tmp_path / "w.safetensors")
    with pytest.raises(ModelError) as caught:
        backbone_of(
            "Odd-encoder",
            str(tmp_path / "w.safetensors") if from_file else "none",
            [1],
            model_config=str(tmp_path / "odd"),
        )
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_images_are_normalised_as_the_weights_were_trained_with(monkeypatch, tiny_configs):
    untrained = open_clip.create_model
    open_clip.add_model_config(tiny_configs)
    monkeypatch.setattr(
        open_clip, "create_model", lambda *_, **__: untrained("ViT-tiny-test", pretrained=None)
    )
    own = backbone_of("ViT-B-16-quickgelu", "openai", [1])
    assert own.mean.tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    other = backbone_of("ViT-L-14", "laion2b_s32b_b82k", [1])
    assert other.mean.tolist() == other.std.tolist() == [0.5, 0.5, 0.5]
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    right = (pixels / 255 - own.mean.view(3, 1, 1)) / own.std.view(3, 1, 1)
    for encoder, expected in ((own, right), (other, pixels / 127.5 - 1)):
        assert torch.allclose(normalise(pixels, encoder.mean, encoder.std), expected, atol=1e-6)


def test_pixels_are_normalised_and_resized_where_they_are_encoded(tiny_backbone):
    pixels = noise(2, 3, 48, 48)
    images = normalise(pixels, tiny_backbone.mean, tiny_backbone.std)
    expected = tiny_backbone.encode_normalised(images).tokens
    assert torch.equal(tiny_backbone.encode(pixels).tokens, expected)
    assert torch.equal(tiny_backbone.encode(pixels, side=48).tokens, expected)
    smaller = torch.nn.functional.interpolate(images, (32, 32), mode="bicubic", antialias=True)
    found = tiny_backbone.encode(pixels, side=32).tokens
    assert torch.equal(found, tiny_backbone.encode_normalised(smaller).tokens)
    with pytest.raises(ValueError, match="uint8, not of torch.float32"):
        tiny_backbone.encode(images)


def test_the_position_table_follows_the_encoder_to_another_device(tiny_configs):
    backbone = encoder(tiny_configs)
    backbone.encode(noise(1, 3, 32, 32))
    backbone.to("meta")
    assert backbone.encode(noise(1, 3, 32, 32)).tokens.is_meta


def test_a_side_that_is_no_multiple_of_the_patch_is_refused(tiny_backbone):
    assert isinstance(tiny_backbone, OpenClipBackbone)
    with pytest.raises(ModelError, match="--image-size 35 .* 32 is the nearest"):
        tiny_backbone.encode(noise(1, 3, 35, 35))


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_a_model_file_that_is_no_small_file_is_refused(tmp_path, kind):
    file = tmp_path / "ViT-tiny-test.json"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.write_text(" " * 2**20 + json.dumps(TINY))
    with pytest.raises(ModelError, match=r"ViT-tiny-test.json cannot be read \(it is no small file\)"):
        backbone_of("ViT-tiny-test", "none", [1], model_config=str(tmp_path))


def test_empty_model_config_folder_is_said(tmp_path):
    with pytest.raises(ModelError, match="holds no open_clip model file"):
        backbone_of("ViT-B-32", "none", [1], model_config=str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "5", "null", "[" * 100_000, '{"embed_dim": '])
def test_a_model_file_that_is_none_is_refused_and_spoils_no_other(tmp_path, tiny_configs, content):
    (tmp_path / "ViT-tiny-test.json").write_text(content)
    with pytest.raises(ModelError, match=r"--model-config: .*ViT-tiny-test\.json"):
        backbone_of("ViT-tiny-test", "none", [1, 3], model_config=str(tmp_path))
    assert backbone_of("ViT-tiny-test", "none", [1, 3], model_config=tiny_configs).width == 32


@pytest.mark.parametrize(
    "name, value",
    [
        ("layers", []),
        ("layers", [1, 2]),
        ("width", -1),
        ("width", 0),
        ("width", 10**12),
        ("head_width", 0),
        ("patch_size", -1),
        ("patch_size", 0),
        ("timm_model_name", "vit_tiny"),
        ("embed_dim", -1),
        ("embed_dim", 10**12),
    ],
)
def test_sizes_that_no_model_has_are_refused(tmp_path, name, value):
    values = {**TINY, "vision_cfg": dict(TINY["vision_cfg"])}
    (values if name == "embed_dim" else values["vision_cfg"])[name] = value
    model = f"ViT-{name.replace('_', '-')}-{str(value).strip('[]').replace(', ', '-')}"
    (tmp_path / f"{model}.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=f"--model {model} cannot be built from its open_clip configuration"):
        backbone_of(model, "none", [1, 3], model_config=str(tmp_path))
