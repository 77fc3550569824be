"""Named combinations: what they set, what wins over them, and that all of it can be had."""

import argparse
import logging

import pytest

from fdsl.api import AnomalyDetector
from fdsl.flags import predict_flags, test_flags
from fdsl.presets import PRESETS, take_preset, with_preset
from fdsl.settings import backbone_config
from models.methods.registry import METHODS, WITHOUT_HEADS
from utils.config import IMAGE_SCORES, BackboneConfig
from utils.errors import ConfigError

PREDICT = ["--input", "parts", "--output", "out", "--references", "good"]


def test_the_papers_preset_is_what_is_used_anyway():
    assert backbone_config(with_preset("fdsl", {})) == BackboneConfig()


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_is_one_that_the_commands_take(name):
    settings = PRESETS[name].settings
    given = argparse.Namespace(**vars(predict_flags.parse(PREDICT, "")))
    assert all(hasattr(given, flag) for flag in settings)
    assert settings["method"] in METHODS and settings.get("image_score", "max") in IMAGE_SCORES
    tower = backbone_config(settings)
    assert tower.pretrained in ("openai", "lvd142m") and tower.image_size % 14 == 0


def test_the_large_model_is_tapped_in_its_upper_middle():
    tower = backbone_config(with_preset("best", {}))
    assert tower.layers == (14, 17) and tower.image_size == 518 and tower.token_norm == "final"
    assert backbone_config(with_preset("fast", {})).layers == (3, 6, 9, 12)


def test_what_it_sets_is_said_and_flags_win(caplog):
    with caplog.at_level(logging.INFO, logger="fdsl"):
        args = predict_flags.parse([*PREDICT, "--preset", "fast", "--image-size", "518"], "")
    assert (args.method, args.image_size) == (WITHOUT_HEADS, 518)
    assert args.model == "timm/vit_small_patch14_reg4_dinov2.lvd142m"
    assert caplog.messages == [
        "preset fast: --model timm/vit_small_patch14_reg4_dinov2.lvd142m --method nearest"
    ]


def test_a_test_run_takes_the_presets_score():
    (args,) = test_flags.parse(["--dataset", "mvtec", "--preset", "best"], "")
    assert (args.image_score, args.method, args.layers) == ("top1", "nearest", (14, 17))
    plain = argparse.Namespace(preset=None, model=None)
    take_preset(plain)
    assert plain.model is None


def test_it_makes_a_detector_and_does_not_go_with_a_saved_one(capsys):
    with pytest.raises(SystemExit):
        predict_flags.parse([*PREDICT, "--preset", "fast", "--detector", "part.safetensors"], "")
    assert "--preset does not go with --detector" in capsys.readouterr().err


def test_presets_in_python(tiny_configs, tmp_path):
    tower = {"model": "ViT-tiny-test", "pretrained": "none", "model_config": tiny_configs, "layers": (1, 3)}
    made = AnomalyDetector.from_preset("fast", image_size=64, device="cpu", **tower)
    assert made.config.detector.method == "nearest" and made.image_size == 64
    best = AnomalyDetector.from_preset("best", image_size=64, device="cpu", **tower)
    assert best.config.image_score == "top1"
    with pytest.raises(ConfigError, match="choose one of fdsl, fast, best"):
        AnomalyDetector.from_preset("paper")
    with pytest.raises(ConfigError, match="needs trained heads"):
        AnomalyDetector.from_preset("fdsl")
