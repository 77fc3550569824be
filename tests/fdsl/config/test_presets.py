"""Backbones by short names: what they set, what overrides them, and that all of it can be had."""

import logging

import pytest

from fdsl.api import AnomalyDetector
from fdsl.config.presets import PRESETS, with_preset
from fdsl.config.resolve import backbone_config
from fdsl.flags import evaluate_flags, predict_flags
from fdsl.flags.groups import take_preset
from utils.config import BackboneConfig
from utils.errors import ConfigError
from utils.options import options_of

PREDICT = ["--input", "parts", "--output", "out", "--references", "good"]


def test_the_papers_preset_is_what_is_used_anyway():
    assert backbone_config(with_preset("clip-large", {})) == BackboneConfig()


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_is_one_that_the_commands_take(name):
    settings = PRESETS[name].settings
    assert set(settings) <= set(options_of(BackboneConfig)), "a preset names a backbone, and no method"
    encoder = backbone_config(settings)
    assert encoder.pretrained in ("openai", "lvd142m") and encoder.image_size % 14 == 0


def test_the_large_model_is_tapped_in_its_upper_middle():
    encoder = backbone_config(with_preset("dinov2-large", {}))
    assert encoder.layers == (14, 17) and encoder.image_size == 518 and encoder.token_norm == "final"
    assert backbone_config(with_preset("dinov2-small", {})).layers == (3, 6, 9, 12)


def test_what_it_sets_is_said_and_flags_win(caplog):
    with caplog.at_level(logging.INFO, logger="fdsl"):
        args = predict_flags.parse([*PREDICT, "--preset", "dinov2-small", "--image-size", "518"], "")
    assert (args.given.get("method"), args.given["image_size"]) == (None, 518)
    assert args.given["model"] == "timm/vit_small_patch14_reg4_dinov2.lvd142m"
    assert caplog.messages == ["preset dinov2-small: --model timm/vit_small_patch14_reg4_dinov2.lvd142m"]


def test_a_test_run_takes_the_presets_layers():
    (args,) = evaluate_flags.parse(["--dataset", "mvtec", "--preset", "dinov2-large"], "")
    assert (args.image_score, args.method, args.layers) == ("paper", "fdsl", (14, 17))
    assert take_preset(None, {"model": None}) == {"model": None}


def test_it_makes_a_detector_and_does_not_go_with_a_saved_one(capsys):
    with pytest.raises(SystemExit):
        predict_flags.parse([*PREDICT, "--preset", "dinov2-small", "--detector", "part.safetensors"], "")
    assert "--preset does not go with --detector" in capsys.readouterr().err


def test_a_preset_leaves_the_method_to_its_default(caplog):
    args = predict_flags.parse([*PREDICT, "--preset", "dinov2-small", "--device", "cpu"], "")
    assert args.method == "plus" and not args.given.keys() & {"method", "rotate_references", "tiles"}


def test_presets_in_python(tiny_configs):
    encoder = {"model": "ViT-tiny-test", "pretrained": "none", "model_config": tiny_configs, "layers": (1, 3)}
    plain = AnomalyDetector.from_backbone(image_size=64, device="cpu", **encoder)
    for name in PRESETS:
        made = AnomalyDetector.from_backbone(preset=name, image_size=64, device="cpu", **encoder)
        assert made.config == plain.config
    with pytest.raises(ConfigError, match="choose one of clip-large, dinov2-small, dinov2-large"):
        AnomalyDetector.from_backbone(preset="paper")
    with pytest.raises(ConfigError, match="There is no checkpoint nowhere"):
        AnomalyDetector.from_checkpoint("nowhere.safetensors", preset="clip-large")
