"""Text against the same arithmetic written down plainly, on small random CLIPs, and against open_clip's own
encoders."""

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from fdsl.config.run_config import DetectorConfig
from fdsl.factory import build_detector, make_method
from fdsl.scoring import Scorer
from fdsl.thresholds.leave_one_out import set_scales
from models.backbone import normalise
from models.backbones.backbone_registry import text_directions
from models.backbones.text.prompts import TEMPLATES, directions, object_of, sentences
from models.backbones.text.text_encoder import read_text_encoder, text_encoder
from models.detector import NO_WINDOWS, Detector
from models.features import EMBEDDING, PROJECTED
from models.matching.candidates import Masked
from models.methods.registry import METHODS
from models.views.tile_maps import resized, smoothed
from tests.support.backbones import backbone_of
from tests.support.constants import TINY
from tests.support.detectors import final_tile_maps
from tests.support.photographs import texture
from tests.support.plain import nearest
from tests.support.tokens import noise
from utils.config import DAMAGED_WORDS, NORMAL_WORDS, BackboneConfig, MethodConfig, WindowConfig
from utils.device import machine_facts
from utils.errors import ModelError

SIDE, GRID = 32, 4
EXACT = {"rtol": 0, "atol": 2e-5}
SAID = [
    "a photo of a flawless bolt",
    "a photo of a broken bolt",
    "bolts, nuts and a rather long list of them",
]
MODELS = {
    "ViT-text-plain": TINY,
    "ViT-text-quick": {**TINY, "quick_gelu": True},
    "ViT-text-custom": {**TINY, "custom_text": True},
}


class Clips:
    """Random CLIPs of open_clip by name, the folder of their models' files, and files of their weights."""

    def __init__(self, folder):
        self.configs = str(folder / "configs")
        (folder / "configs").mkdir()
        for name, config in MODELS.items():
            (folder / "configs" / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(self.configs)
        self.made, self.files = {}, {}
        for number, name in enumerate(MODELS):
            torch.manual_seed(number)
            clip = open_clip.create_model(name, pretrained=None).eval().requires_grad_(False)
            for part in clip.parameters():
                part.add_(0.1 * torch.randn_like(part))  # biases and norms that say something
            self.made[name], self.files[name] = clip, folder / f"{name}.safetensors"
            save_file(clip.state_dict(), self.files[name])

    def backbone(self, name="ViT-text-plain", layers=(1, 3)):
        return backbone_of(name, str(self.files[name]), layers, model_config=self.configs)

    def encoder(self, name="ViT-text-plain", **more):
        return BackboneConfig(name, str(self.files[name]), self.configs, (1, 3), SIDE, **more)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def photos():
    return noise(5, 3, SIDE, SIDE, seed=3)


def plain_projection(visual, image):
    """Image (3,S,S) -> projected patch tokens (N,D): the encoder block by block, in the last one each head's
    values as its queries and keys, patch by patch."""
    x = visual.conv1(image[None]).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(x)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    x = x[0]
    attention, width = last.attn, x.shape[1]
    weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    values = last.ln_1(x) @ weight.T + bias
    size, rows = width // attention.num_heads, []
    for token in range(len(x)):
        heads = []
        for head in range(attention.num_heads):
            own = values[:, head * size : (head + 1) * size]
            likeness = torch.stack([own[token] @ other / size**0.5 for other in own]).exp()
            heads.append((likeness[:, None] * own).sum(0) / likeness.sum())
        rows.append(torch.cat(heads))
    x = x + torch.stack(rows) @ attention.out_proj.weight.T + attention.out_proj.bias
    x = x + last.mlp(last.ln_2(x))
    found = visual.ln_post(x)[1:] @ visual.proj
    return found / found.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("name", MODELS)
def test_sentences_are_encoded_as_open_clip_does(clips, name):
    found = text_encoder(BackboneConfig(name, str(clips.files[name]), clips.configs))(SAID)
    expected = clips.made[name].encode_text(open_clip.get_tokenizer(name)(SAID), normalize=True)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("name", MODELS)
def test_the_embedding_is_open_clips_and_projected_tokens_are_the_plain_ones(clips, photos, name):
    backbone = clips.backbone(name)
    found = backbone.encode(photos, frozenset({EMBEDDING, PROJECTED}))
    images = normalise(photos, backbone.mean, backbone.std)
    expected = clips.made[name].encode_image(images, normalize=True)
    torch.testing.assert_close(found.embedding, expected, **EXACT)
    assert found.projected.shape == (1, len(photos), GRID**2, 24)
    for number, image in enumerate(images):
        plain = plain_projection(clips.made[name].visual, image)
        torch.testing.assert_close(found.projected[0, number], plain, **EXACT)
    torch.testing.assert_close(found.tokens, backbone.encode(photos).tokens, **EXACT)


def test_projected_tokens_do_not_ask_for_the_last_block_to_be_tapped(clips, photos):
    last, first = (clips.backbone(layers=layers) for layers in ((3,), (1,)))
    want = frozenset({PROJECTED})
    assert torch.equal(last.encode(photos, want).projected, first.encode(photos, want).projected)


def test_directions_are_the_means_over_states_and_templates(clips):
    clip, tokenizer = clips.made["ViT-text-plain"], open_clip.get_tokenizer("ViT-text-plain")
    options = MethodConfig(object="metal nut", damaged_words=("rusty", "{} with a crack"))
    (found,) = text_directions(clips.encoder(), [options])
    for row, states in zip(found, (NORMAL_WORDS, ("rusty {}", "{} with a crack"))):
        vectors = []
        for state in states:
            for template in TEMPLATES:
                sentence = template.replace("{}", state.replace("{}", "metal nut"))
                vectors.append(clip.encode_text(tokenizer([sentence]), normalize=True)[0])
        mean = torch.stack(vectors).mean(0)
        torch.testing.assert_close(row, mean / mean.norm(), **EXACT)


def test_what_is_said_reads_as_it_should():
    assert "a close-up photo of the flawless metal nut" in sentences(object_of("metal_nut"), NORMAL_WORDS)
    assert "a photo of a bolt with damage" in sentences("bolt", DAMAGED_WORDS)
    assert sentences("bolt", ["rusty"])[0] == "a photo of a rusty bolt"
    asked = []

    def encode(reported):
        asked.append(reported)
        return torch.eye(3)[: len(reported) % 2 + 1]

    directions(encode, MethodConfig(object="bolt", normal_words=("shiny",)))
    assert all("shiny bolt" in one for one in asked[0]) and len(asked) == 2


def config_of(clips, method, windows=NO_WINDOWS, **options):
    machine = machine_facts(torch.device("cpu"), torch.float32)
    return DetectorConfig(
        method=method,
        backbone=clips.encoder(),
        options=MethodConfig(use_nam=False, **options),
        windows=windows,
        machine=machine,
    )


@pytest.mark.parametrize("windows", [NO_WINDOWS, WindowConfig("mul", 2, 1)])
def test_text_alone_is_the_softmax_of_both_directions(clips, photos, windows):
    found = build_detector(config_of(clips, "text", windows, object="bolt"), None)(photos)
    clip, (towards,) = (
        clips.made["ViT-text-plain"],
        text_directions(clips.encoder(), [MethodConfig(object="bolt")]),
    )

    def damaged(vectors):
        return torch.stack([torch.exp(100 * (vector @ towards.T)).double() for vector in vectors])

    backbone = clips.backbone()
    for number, image in enumerate(normalise(photos, backbone.mean, backbone.std)):
        parts = damaged(plain_projection(clip.visual, image))
        shown = (parts[:, 1] / parts.sum(1)).float().view(GRID, GRID)
        torch.testing.assert_close(found.base[number], shown, rtol=0, atol=1e-3)
        whole = damaged(clip.encode_image(image[None], normalize=True))[0]
        assert float(found.base_score[number]) == pytest.approx(float(whole[1] / whole.sum()), abs=1e-3)
    if windows != NO_WINDOWS:  # the score of windows: the highest mean over those that a patch lies in
        total, count = torch.zeros(GRID, GRID), torch.zeros(GRID, GRID)
        for row in range(3):
            for column in range(3):
                window = photos[0][:, row * 8 : row * 8 + 16, column * 8 : column * 8 + 16]
                whole = damaged(backbone.encode(window[None], frozenset({EMBEDDING})).embedding)[0]
                total[row : row + 2, column : column + 2] += float(whole[1] / whole.sum())
                count[row : row + 2, column : column + 2] += 1
        assert float(found.window_score[0]) == pytest.approx(float((total / count).max()), abs=1e-3)


def plain_text_map(clip, photo, references, towards):
    """|r| + relu(r . R) + 0.1 (q . R) of each patch (N,), not below zero."""
    tokens = plain_projection(clip.visual, photo)
    bank = torch.cat([plain_projection(clip.visual, reference) for reference in references])
    direction = towards[1] - towards[0]
    direction = direction / direction.norm()
    found = []
    for token, match in zip(tokens, nearest(tokens, bank, "mulmax")):
        residual = token - bank[match]
        pointed = residual @ direction
        found.append(max(0.0, float(residual.norm() + max(0.0, pointed) + 0.1 * (token @ direction))))
    return torch.tensor(found).view(GRID, GRID)


@pytest.mark.parametrize("method", ["nearest", "plus", "fdsl"])
def test_beside_a_method_each_map_is_measured_by_its_level(clips, photos, method):
    torch.manual_seed(1)
    heads = METHODS["fdsl"].load()(32, 2, MethodConfig(use_nam=False)).state_dict()
    config = config_of(clips, method, with_text=True, object="bolt")
    backbone = clips.backbone()
    made = make_method(config, 32, 2, heads)
    detector = Detector(backbone, made, SIDE)
    detector.fit(photos[:2])
    clip, (towards,) = clips.made["ViT-text-plain"], text_directions(clips.encoder(), [config.options])
    images = normalise(photos, backbone.mean, backbone.std)
    reported = [plain_text_map(clip, image, images[:2], towards) for image in images[2:]]
    raw = detector.raw_maps(photos[2:])
    for number, shown in enumerate(reported):
        for block in (-2, -1):
            torch.testing.assert_close(raw[block, number], shown, **EXACT)
    own = Detector(backbone, METHODS[method].load().of_heads(32, 2, MethodConfig(use_nam=False), heads), SIDE)
    own.fit(photos[:2])
    groups = METHODS[method].load().groups
    levels = [0.3, 0.2, 0.7][: groups + 1]
    made.set_scales(levels)
    found = detector(photos[2:])
    maps = list(own.raw_maps(photos[2:]))
    scaled = torch.stack([one / (one + levels[place // 2]) for place, one in enumerate(maps)])
    shown_own, score_own = own.method.summarise(scaled)
    for number, text in enumerate(reported):
        text = text / (text + levels[-1])
        torch.testing.assert_close(found.base[number], (shown_own[number] + text) / 2, **EXACT)
        expected = (score_own[number] + text.max()) / 2
        torch.testing.assert_close(found.base_score[number], expected, **EXACT)


@pytest.mark.parametrize(
    "windows", [NO_WINDOWS, WindowConfig("mul", 2, 2), WindowConfig("nan", tiles=2)], ids=["", "lfe", "tiles"]
)
@pytest.mark.parametrize("with_batch", [False, True])
def test_levels_come_from_held_out_references(clips, windows, with_batch):
    photographs = [Image.fromarray(texture(number, height=80, width=80)) for number in range(4)]
    detector = build_detector(config_of(clips, "plus", windows, with_text=True, with_batch=with_batch), None)
    scorer = Scorer(detector)
    detector.lay_tiles([photographs[0].size])
    if with_batch:
        detector.take_test_images(iter([scorer.to_batch(photographs)]), 4)
    scorer.fit(scorer.to_batch(photographs[:2]))
    before = scorer.scale_maps(scorer.to_batch(photographs[2:]), ["a", "b"])
    assert before.shape == (2, 3, GRID, GRID)
    set_scales(scorer, photographs[:2])
    levels = detector.method.alone().calibration
    assert len(levels) == 3 and bool((levels > 0).all())
    held = [scorer.without(number, 2) for number in range(2)]
    own = [one.scale_maps(one.to_batch([photo]), ["r"]) for one, photo in zip(held, photographs)]
    assert float(levels[2]) <= 1.5 * max(part[0, 2].max() for part in own)
    found = scorer(scorer.to_batch(photographs[2:]), ["a", "b"])
    assert all((part >= 0).all() and (part < 1).all() and part.std() > 0 for part in found.arrays)


@pytest.mark.parametrize("method", ["nearest", "plus"])
def test_with_tiles_the_text_sees_them_too(clips, method):
    references, photograph = ([Image.fromarray(texture(number, height=80, width=80))] for number in (5, 6))
    own, both = (
        Scorer(build_detector(config_of(clips, method, WindowConfig("nan", tiles=2), with_text=text), None))
        for text in (False, True)
    )
    groups = METHODS[method].load().groups
    levels = [0.2, 0.3, 0.8][: groups + 1]
    for scorer in (own, both):
        scorer.detector.lay_tiles([photograph[0].size])
        scorer.fit(scorer.to_batch(references))
    both.detector.method.set_scales(levels)
    batch = both.to_batch(photograph)
    whole, tiles = own.detector.raw_maps(batch), final_tile_maps(own.detector, batch)
    scaled = torch.stack([one / (one + levels[place // 2]) for place, one in enumerate(whole)])
    side = both.detector.side
    shown, score = own.detector.method.with_tiles(scaled, tiles / (tiles + levels[0]), side)
    method = both.detector.method
    reported = method.final(method.refine(both.detector.raw_maps(batch)))[-2:]
    of_tiles = final_tile_maps(both.detector, batch)[-2:]
    assert of_tiles.std() > 0 and torch.equal(of_tiles[0], of_tiles[1])
    text = (resized(reported, side) + smoothed(resized(of_tiles, side), 1.0))[0] / 2
    found = both.detector(batch)
    torch.testing.assert_close(found.base, (shown + text) / 2, **EXACT)
    torch.testing.assert_close(found.base_score, (score + text.amax((1, 2))) / 2, **EXACT)


def test_the_only_reference_is_matched_elsewhere_in_text_too(clips, photos):
    config = config_of(clips, "nearest", with_text=True, object="bolt")
    detector = build_detector(config, None)
    detector.fit(photos[:1])
    places = torch.stack(torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij"), -1).view(
        -1, 2
    )
    found = detector.raw_maps(photos[:1], Masked(places[None].float()))[-1, 0].flatten()
    image = normalise(photos[0], detector.backbone.mean, detector.backbone.std)
    tokens = plain_projection(clips.made["ViT-text-plain"].visual, image)
    (towards,) = text_directions(clips.encoder(), [config.options])
    direction = F.normalize(towards[1] - towards[0], dim=0)
    for number, (token, place) in enumerate(zip(tokens, places)):
        allowed = tokens[((places - place).abs() > 2).any(1)]
        if len(allowed):
            residual = token - allowed[(allowed @ token).argmax()]
            expected = residual.norm() + (residual @ direction).clamp(min=0) + 0.1 * (token @ direction)
            torch.testing.assert_close(found[number], expected, **EXACT)


def of_transformers(state):
    """A text encoder's state dict in the names of transformers' CLIPModel, beside a part of an image
    encoder."""
    found = {
        "vision_model.embeddings.class_embedding": torch.zeros(4),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
    }
    parts = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    parts |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    own, theirs = "transformer.resblocks.0", "text_model.encoder.layers.0"
    for kind in ("weight", "bias"):
        found[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        for letter, part in zip("qkv", state[f"{own}.attn.in_proj_{kind}"].chunk(3), strict=True):
            found[f"{theirs}.self_attn.{letter}_proj.{kind}"] = part.clone()
        for ours, name in parts.items():
            found[f"{theirs}.{name}.{kind}"] = state[f"{own}.{ours}.{kind}"]
    return found


def test_the_names_of_transformers_are_read(clips, tmp_path):
    name = "ViT-text-plain"
    save_file(of_transformers(clips.made[name].state_dict()), tmp_path / "model.safetensors")
    found = text_encoder(BackboneConfig(name, str(tmp_path / "model.safetensors"), clips.configs))(SAID)
    assert torch.equal(found, text_encoder(BackboneConfig(name, str(clips.files[name]), clips.configs))(SAID))


def test_untrained_text_is_always_the_same(clips):
    first, second = (
        text_encoder(BackboneConfig("ViT-text-plain", "none", clips.configs))(SAID) for _ in range(2)
    )
    assert torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_weights_without_a_text_encoder_are_refused(clips, tmp_path):
    visual = clips.made["ViT-text-plain"].visual.state_dict()
    save_file(visual, tmp_path / "encoder.safetensors")
    with pytest.raises(ModelError, match="holds no text encoder"):
        read_text_encoder(tmp_path / "encoder.safetensors")
    whole = clips.made["ViT-text-plain"].state_dict()
    del whole["ln_final.bias"]
    save_file(whole, tmp_path / "less.safetensors")
    with pytest.raises(ModelError, match=r"does not fill the text encoder \(missing: ln_final.bias"):
        text_encoder(BackboneConfig("ViT-text-plain", str(tmp_path / "less.safetensors"), clips.configs))


@pytest.mark.parametrize(
    "model, words",
    [
        ("ViT-B-16-SigLIP", "an image encoder of timm"),
        ("roberta-ViT-B-32", "not open_clip's"),
        ("coca_ViT-B-32", "writes captions"),
    ],
)
def test_models_with_other_encoders_are_a_sentence(model, words):
    with pytest.raises(ModelError, match=words):
        text_encoder(BackboneConfig(model, "none"))


def test_a_vocabulary_that_the_tokenizer_has_not_is_refused(tmp_path):
    small = {**TINY, "text_cfg": {**TINY["text_cfg"], "vocab_size": 16}}
    (tmp_path / "ViT-text-small.json").write_text(json.dumps(small))
    with pytest.raises(ModelError, match="has 16 tokens, and open_clip's tokenizer has 49408"):
        text_encoder(BackboneConfig("ViT-text-small", "none", str(tmp_path)))


def test_a_encoder_of_timm_has_no_text(photos):
    with pytest.raises(ModelError, match="need a CLIP of open_clip"):
        text_directions(BackboneConfig("timm/test_vit", "none"), [MethodConfig()])
    backbone = backbone_of("timm/test_vit", "none", [2, 4])
    with pytest.raises(ModelError, match="need a CLIP of open_clip"):
        backbone.encode(noise(1, 3, 160, 160), frozenset({PROJECTED}))


def test_a_encoder_that_pools_otherwise_is_refused(clips, photos):
    backbone = clips.backbone()
    backbone.visual.proj = None
    with pytest.raises(ModelError, match="not built like CLIP's"):
        backbone.encode(photos, frozenset({PROJECTED}))
