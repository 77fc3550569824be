"""Encoders of timm: what the adapter gives is what timm's own forward gives, and what is refused."""

import json

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from models.backbones import cpu_attention, timm_loading
from models.backbones.open_clip_loading import untrained_encoder
from models.backbones.timm import AttentionByProducts, TimmBackbone
from models.features import EMBEDDING, RAW_TOKENS
from tests.support.backbones import backbone_of, defaults_of
from utils.config import BackboneConfig
from utils.errors import ModelError

ALL_FEATURES = frozenset({EMBEDDING, RAW_TOKENS})
COMMON = {"embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 0, "dynamic_img_size": True}
SMALL = "timm/test_vit"  # the smallest that timm has


@pytest.fixture(autouse=True)
def no_hub_is_asked(monkeypatch):
    monkeypatch.setattr(timm_loading, "announce", lambda *_: None)


def small(kind):
    """A random model of one kind, and the prefix tokens that it puts before the patches."""
    torch.manual_seed(5)
    if kind == "plain":
        return VisionTransformer(img_size=64, patch_size=16, **COMMON), 1
    if kind == "registers":
        more = {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.1}
        return VisionTransformer(img_size=70, patch_size=14, **more, **COMMON), 5
    if kind == "siglip":
        return VisionTransformer(
            img_size=64, patch_size=16, class_token=False, global_pool="map", **COMMON
        ), 0
    more = {"use_rot_pos_emb": True, "num_reg_tokens": 4}
    if kind == "dinov3":
        more |= {"use_abs_pos_emb": False, "rope_type": "dinov3", "attn_type": "rope", "init_values": 0.1}
    return Eva(img_size=64, patch_size=16, **more, **COMMON), 5


KINDS = ("plain", "registers", "siglip", "eva", "dinov3")


def adapted(kind, dtype=torch.float32, token_norm="raw", layers=(1, 3)):
    visual = small(kind)[0]
    return TimmBackbone(visual, layers, torch.device("cpu"), dtype, (0.5,) * 3, (0.5,) * 3, token_norm)


def tokens_of_timm(visual, prefix, images, layers, final):
    """timm's own blocks, taken by hooks while its plain forward runs."""
    seen = []
    hooks = [
        visual.blocks[layer - 1].register_forward_hook(lambda *call: seen.append(call[2])) for layer in layers
    ]
    with torch.no_grad():
        pooled = visual.eval()(images)
        blocks = [visual.norm(block) if final else block for block in seen]
    for hook in hooks:
        hook.remove()
    return torch.stack([block[:, prefix:] for block in blocks]), pooled


@pytest.mark.parametrize("token_norm", ["raw", "final"])
@pytest.mark.parametrize("grid", [4, 5, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_gives_what_timm_gives(kind, grid, token_norm):
    backbone = adapted(kind, token_norm=token_norm)
    visual, prefix = small(kind)
    side = grid * backbone.patch_size
    images = torch.randn(2, 3, side, side)
    found = backbone.encode_normalised(images, ALL_FEATURES)
    blocks, pooled = tokens_of_timm(visual, prefix, images, (1, 3), token_norm == "final")
    assert found.tokens.shape == (2, 2, grid**2, 32) and backbone.grid(side) == grid
    assert torch.allclose(found.raw_tokens, blocks, atol=1e-5)
    assert torch.allclose(found.tokens, F.normalize(blocks, dim=-1), atol=1e-5)
    assert torch.allclose(found.embedding, F.normalize(pooled, dim=-1), atol=1e-5)
    early = backbone.encode_normalised(images)
    assert torch.equal(early.tokens, found.tokens) and early.embedding is None


@pytest.mark.parametrize("kind", KINDS)
def test_each_grid_is_taken_from_the_native_table(kind):
    """Windows and whole images take turns: no table is resampled from a resampled one."""
    backbone = adapted(kind)
    images = torch.randn(1, 3, 7 * backbone.patch_size, 7 * backbone.patch_size)
    first = backbone.encode_normalised(images).tokens
    backbone.encode_normalised(images[..., : 2 * backbone.patch_size, : 2 * backbone.patch_size])
    assert torch.equal(backbone.encode_normalised(images).tokens, first)


@pytest.mark.parametrize("unit", ["AMX", "AVX512-BF16", None])
@pytest.mark.parametrize("kind", KINDS)
def test_narrow_products_beside_sums_in_float32(kind, unit, monkeypatch):
    monkeypatch.setattr(cpu_attention, "bf16_in_hardware", lambda: unit)
    exact, narrow = adapted(kind), adapted(kind, torch.bfloat16)
    plain = kind in ("plain", "registers", "siglip")
    by_products = [isinstance(block.attn, AttentionByProducts) for block in narrow.visual.blocks]
    assert all(by_products) if plain and unit == "AVX512-BF16" else not any(by_products)
    whole = small(kind)[0].eval().to(torch.bfloat16)
    images = torch.randn(2, 3, 5 * exact.patch_size, 5 * exact.patch_size)
    truth = exact.encode_normalised(images, ALL_FEATURES)
    found = narrow.encode_normalised(images, ALL_FEATURES)
    rough = whole.forward_intermediates(
        images.to(torch.bfloat16), [0, 2], output_fmt="NLC", intermediates_only=True
    )
    assert found.tokens.dtype == torch.bfloat16 and found.raw_tokens.dtype == torch.float32
    off = (found.raw_tokens - truth.raw_tokens).norm()
    assert 0 < off < (torch.stack(rough).float() - truth.raw_tokens).norm()
    assert F.cosine_similarity(found.embedding, truth.embedding).min() > 0.999
    assert narrow.fingerprint == exact.fingerprint


def test_frozen_and_told_apart_by_the_norm():
    raw, final = adapted("plain"), adapted("plain", token_norm="final")
    assert final.fingerprint == f"{raw.fingerprint}-final"
    raw.train()
    assert not any(module.training for module in raw.modules())
    assert not any(parameter.requires_grad for parameter in raw.parameters())


def test_the_real_deit_is_the_same_in_both_families(shared):
    """One file, in open_clip's names, fills an encoder of either library."""
    file, configs = shared / "weights/DeiT-Ti-16-in1k.safetensors", shared / "weights/open_clip_configs"
    layers = [3, 6, 9, 12]
    theirs = backbone_of("timm/deit_tiny_patch16_224", str(file), layers)
    ours = backbone_of("DeiT-Ti-16", str(file), layers, model_config=str(configs))
    for side in (448, 208):
        images = torch.randn(1, 3, side, side)
        expected, found = (one.encode_normalised(images, ALL_FEATURES) for one in (ours, theirs))
        assert torch.allclose(found.tokens, expected.tokens, atol=1e-5)
        assert torch.allclose(found.raw_tokens, expected.raw_tokens, atol=1e-5)
        assert torch.allclose(found.embedding, expected.embedding, atol=1e-5)


def test_what_a_model_is_used_with_where_nothing_is_said():
    assert defaults_of("timm/vit_small_patch14_reg4_dinov2.lvd142m") == BackboneConfig(
        "timm/vit_small_patch14_reg4_dinov2.lvd142m", "lvd142m", None, (3, 6, 9, 12), 518, "final"
    )
    large = defaults_of("timm/vit_large_patch16_dinov3.lvd1689m")
    assert (large.layers, large.image_size, large.token_norm) == ((6, 12, 18, 24), 512, "final")
    assert defaults_of("ViT-L-14-336-quickgelu") == BackboneConfig()
    assert defaults_of("ViT-B-16-SigLIP") == BackboneConfig(
        "ViT-B-16-SigLIP", "webli", None, (3, 6, 9, 12), 512
    )


def test_what_timm_is_asked_for(monkeypatch):
    """The weights' tag travels in the name, sizes are free, and there is no classifier."""
    asked = []
    real = timm.create_model

    def create(name, pretrained=False, **options):
        asked.append((name, pretrained, options))
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm_loading.timm, "create_model", create)
    backbone = backbone_of(f"{SMALL}.r160_in1k", "r160_in1k", [1])
    assert asked[-1] == ("test_vit.r160_in1k", True, {"num_classes": 0, "dynamic_img_size": True})
    trained_with = timm.data.resolve_model_data_config(real("test_vit.r160_in1k"))
    assert backbone.mean.tolist() == pytest.approx(trained_with["mean"])
    backbone_of(SMALL, "r160_in1k", [1])
    assert asked[-1][0] == "test_vit.r160_in1k"


def test_untrained_weights_come_from_a_fixed_seed():
    first = backbone_of(SMALL, "none", [1, 2])
    torch.manual_seed(99)
    assert backbone_of(SMALL, "none", [1, 2]).fingerprint == first.fingerprint


def saved(state, path):
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path)
    return str(path)


def test_a_file_in_timms_names_fills_the_encoder(tmp_path):
    torch.manual_seed(1)
    trained = timm.create_model("test_vit", num_classes=7)
    file = saved(trained.state_dict(), tmp_path / "weights.safetensors")
    found = backbone_of(SMALL, file, [1, 2])
    own = timm_loading.untrained_encoder(SMALL).state_dict()
    assert set(own) == set(found.visual.state_dict())
    assert all(torch.equal(found.visual.state_dict()[name], trained.state_dict()[name]) for name in own)
    torch.save(
        {"state_dict": {f"module.{n}": v.half() for n, v in trained.state_dict().items()}}, tmp_path / "a.pth"
    )
    half = backbone_of(SMALL, str(tmp_path / "a.pth"), [1, 2])
    assert half.visual.cls_token.dtype == torch.float32


def test_metas_own_dinov2_names_are_converted(tmp_path, monkeypatch):
    """Registers, a class entry in the position table, a mask token: as Meta writes them."""
    visual = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, depth=1, dynamic_img_size=True)
    monkeypatch.setattr(timm_loading, "_new_encoder", lambda *_: visual)
    state = {name: torch.randn_like(value) for name, value in visual.state_dict().items()}
    metas = {
        name: value for name, value in state.items() if name not in ("cls_token", "reg_token", "pos_embed")
    }
    entry = torch.randn(1, 1, 384)
    metas["cls_token"] = state["cls_token"] - entry
    metas["pos_embed"] = torch.cat([entry, state["pos_embed"]], 1)
    metas["register_tokens"], metas["mask_token"] = state["reg_token"], torch.zeros(1, 384)
    file = saved(metas, tmp_path / "dinov2.safetensors")
    found = backbone_of("timm/vit_small_patch14_reg4_dinov2", file, [1]).visual.state_dict()
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in state.items())


@pytest.mark.parametrize(
    "model, pretrained, layers, words",
    [
        ("timm/nothing_of_the_kind", "none", [1], "is not known to timm"),
        ("timm/vit_smal_patch14_dinov2", "none", [1], "near names: timm/vit_small_patch14_dinov2"),
        ("timm/resnet18", "none", [1], "is no plain Vision Transformer; choose for instance timm/"),
        ("timm/vit_small_r26_s32_224", "none", [1], "is no plain Vision Transformer"),
        ("timm/swin_tiny_patch4_window7_224", "none", [1], "is no plain Vision Transformer"),
        (SMALL, "openai", [1], "neither a file nor a tag of timm/test_vit (tags: r160_in1k;"),
        (SMALL, "none", [1, 9], "give distinct blocks between 1 and 6"),
        ("ViTamin-S", "none", [1], "is no plain Vision Transformer"),
    ],
)
def test_what_cannot_be_had_is_a_sentence(model, pretrained, layers, words):
    with pytest.raises(ModelError) as error:
        backbone_of(model, pretrained, layers)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_sizes_that_do_not_fit():
    with pytest.raises(ModelError, match="not a multiple of the patch side 14; 518 is the nearest"):
        adapted("registers").grid(512)


@pytest.mark.parametrize(
    "reason, cure", [("GatedRepo: 403", "accept its terms on the hub"), ("no route", "")]
)
def test_a_hub_that_gives_nothing(monkeypatch, reason, cure):
    real = timm.create_model

    def create(name, pretrained=False, **options):
        if pretrained:
            raise OSError(f"{reason}\nmore of it")
        return real(name, **options)

    monkeypatch.setattr(timm_loading.timm, "create_model", create)
    with pytest.raises(ModelError) as error:
        backbone_of("timm/vit_small_patch14_reg4_dinov2.lvd142m", "lvd142m", [1])
    assert "download model.safetensors of timm/vit_small_patch14_reg4_dinov2.lvd142m" in str(error.value)
    assert cure in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("blocks.1.norm1.weight"), "missing: blocks.1.norm1.weight"),
        (lambda state: state.update(extra=torch.ones(2)), "not of the image encoder: extra"),
        (lambda state: state.update({"norm.weight": torch.ones(3)}), "of another shape: norm.weight"),
        (lambda state: state["norm.weight"].fill_(torch.nan), "not finite (norm.weight)"),
        (lambda state: [value.zero_() for value in state.values()], "nothing but zeros"),
        (lambda state: state.update({"norm.weight": torch.ones(64, dtype=torch.int32)}), "holds int32"),
        (lambda state: state.update(pos_embed=torch.ones(3)), "does not fill the image encoder"),
        (lambda state: state.clear() or state.update({"conv1.weight": torch.ones(2)}), "missing: "),
    ],
)
def test_weights_that_do_not_fill_the_encoder(tmp_path, change, words, capsys):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    change(state)
    with pytest.raises(ModelError) as error:
        backbone_of(SMALL, saved(state, tmp_path / "weights.safetensors"), [1])
    assert words in str(error.value) and "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def config_with_trunk(folder, trunk, pool, projection="linear"):
    """A model of open_clip whose encoder is one of timm's."""
    vision = {"timm_model_name": trunk, "timm_model_pretrained": False, "timm_pool": pool}
    vision |= {"timm_proj": projection, "image_size": 32}
    text = {"context_length": 4, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (folder / "ViT-of-timm-test.json").write_text(json.dumps(config))
    return str(folder)


def test_encoders_that_open_clip_takes_from_timm(tmp_path):
    """Projection and mean belong to open_clip, tokens and sizes are timm's."""
    configs = config_with_trunk(tmp_path, "test_vit", "token")
    found = backbone_of("ViT-of-timm-test", "none", [1, 2], model_config=configs)
    assert isinstance(found, TimmBackbone) and found.width == 64
    images = torch.randn(2, 3, 160, 160)
    own = untrained_encoder("ViT-of-timm-test").eval()
    with torch.no_grad():
        pooled = F.normalize(own(images), dim=-1)
    given = found.encode_normalised(images, ALL_FEATURES)
    assert given.embedding.shape == (2, 16) and torch.allclose(given.embedding, pooled, atol=1e-5)
    assert found.encode_normalised(torch.randn(1, 3, 48, 48)).tokens.shape == (2, 1, 9, 64)
    file = saved({f"visual.{n}": v for n, v in own.state_dict().items()}, tmp_path / "clip.safetensors")
    assert backbone_of("ViT-of-timm-test", file, [1, 2]).fingerprint == found.fingerprint
    assert open_clip.get_model_config("ViT-of-timm-test")["vision_cfg"]["timm_model_name"] == "test_vit"


def test_rotary_positions_that_were_made_for_one_size_serve_all(tmp_path):
    """open_clip builds EVA-02 for one size; its rotary table has to be made for the others."""
    name = "eva02_tiny_patch14_224"
    found = backbone_of(
        "ViT-of-timm-test", "none", [1, 12], model_config=config_with_trunk(tmp_path, name, "avg")
    )
    dynamic = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    dynamic.load_state_dict(found.visual.state_dict())
    for side in (224, 70):
        images = torch.randn(1, 3, side, side)
        expected, _ = tokens_of_timm(dynamic, 1, images, (1, 12), False)
        assert np.allclose(found.encode_normalised(images, ALL_FEATURES).raw_tokens, expected, atol=1e-4)


def in_names_of_transformers(kind, own):
    """The state dict of a small model in the names that transformers gives ViT, DINOv2 with registers and
    DINOv3, written out block by block."""
    layer = "layer.{}." if kind == "dinov3" else "encoder.layer.{}."
    patches = "embeddings.patch_embeddings." + ("" if kind == "dinov3" else "projection.")
    last = "norm" if kind == "dinov3" else "layernorm"
    found = {"embeddings.cls_token": own["cls_token"], "embeddings.mask_token": torch.zeros(1, 32)}
    if kind == "plain":
        found = {"embeddings.cls_token": own["cls_token"], "embeddings.position_embeddings": own["pos_embed"]}
        found |= {"pooler.dense.weight": torch.ones(32, 32), "pooler.dense.bias": torch.ones(32)}
    if kind == "registers":  # its classes' place in the table is added by timm
        found["embeddings.position_embeddings"] = torch.cat([torch.zeros(1, 1, 32), own["pos_embed"]], 1)
    if kind != "plain":
        found["embeddings.register_tokens"] = own["reg_token"]
    names = {
        "plain": (
            "layernorm_before",
            "layernorm_after",
            "intermediate.dense",
            "output.dense",
            "attention.output.dense",
        ),
        "registers": ("norm1", "norm2", "mlp.fc1", "mlp.fc2", "attention.output.dense"),
        "dinov3": ("norm1", "norm2", "mlp.up_proj", "mlp.down_proj", "attention.o_proj"),
    }[kind]
    for end in ("weight", "bias"):
        found[f"{patches}{end}"] = own[f"patch_embed.proj.{end}"]
        found[f"{last}.{end}"] = own[f"norm.{end}"]
        for number in range(4):
            block, theirs = f"blocks.{number}.", layer.format(number)
            for ours, name in zip(("norm1", "norm2", "mlp.fc1", "mlp.fc2", "attn.proj"), names):
                found[f"{theirs}{name}.{end}"] = own[f"{block}{ours}.{end}"]
            if kind == "dinov3" and end == "bias":
                for name in "qv":
                    found[f"{theirs}attention.{name}_proj.bias"] = own[f"{block}attn.{name}_bias"]
                continue
            attention = "attention.{}_proj" if kind == "dinov3" else "attention.attention.{}"
            parts = "qkv" if kind == "dinov3" else ("query", "key", "value")
            for name, part in zip(parts, own[f"{block}attn.qkv.{end}"].chunk(3)):
                found[f"{theirs}{attention.format(name)}.{end}"] = part
    for number in range(4 if kind != "plain" else 0):
        for place in (1, 2):
            name = f"gamma_{place}" if kind == "dinov3" else f"ls{place}.gamma"
            found[f"{layer.format(number)}layer_scale{place}.lambda1"] = own[f"blocks.{number}.{name}"]
    return found


def of_authors(kind):
    """A small model as its authors make it."""
    if kind != "dinov3":
        return small(kind)[0]
    more = {"num_reg_tokens": 4, "use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3"}
    return Eva(
        img_size=64, patch_size=16, init_values=0.1, use_fc_norm=False, qkv_bias=True, **more, **COMMON
    )


@pytest.mark.parametrize("prefix", ["", "dinov2.", "model.vit."])
@pytest.mark.parametrize("kind", ["plain", "registers", "dinov3"])
def test_the_names_that_transformers_gives_vits_are_read(kind, prefix, tmp_path, monkeypatch):
    wanted = of_authors(kind)
    with torch.no_grad():
        for value in wanted.parameters():
            value.normal_()
    theirs = in_names_of_transformers(kind, wanted.state_dict())
    save_file(
        {f"{prefix}{n}": v.contiguous().clone() for n, v in theirs.items()}, tmp_path / "model.safetensors"
    )
    monkeypatch.setattr(timm_loading, "shape_of_encoder", lambda _: of_authors(kind))
    found = timm_loading.encoder_of_file("timm/any", tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.state_dict().items())
