"""Flags, what a checkpoint decides, and what is refused with a sentence."""

import argparse

import pytest

from fdsl.config.resolve import backbone_config, method_config, window_config
from fdsl.flags.groups import add_detector_options, add_options
from utils.command_line import CommandLine, name_part
from utils.config import PUBLISHED_EPOCHS, QUARTER, BackboneConfig, MethodConfig, RuntimeOptions, WindowConfig
from utils.errors import ConfigError


def flags(*argv):
    parser = CommandLine("settings")
    add_detector_options(parser, research=True)
    add_options(parser, RuntimeOptions)
    return vars(parser.parse_args(argv))


STORED = BackboneConfig(model="ViT-B-16", layers=(3, 6), image_size=224)


def test_defaults_are_the_papers():
    assert backbone_config(flags()) == BackboneConfig(
        "ViT-L-14-336-quickgelu", "openai", None, (6, 12, 18, 24), 518
    )
    assert method_config(flags()) == MethodConfig(True, "abs", "mulmax")
    assert window_config(flags()) == WindowConfig("mul", 13, 2, 0.5, index_memory="0", window_budget=0)
    assert PUBLISHED_EPOCHS == {"visa": 11, "mvtec": 5}


def test_flags_win_over_defaults_and_layers_are_sorted():
    found = backbone_config(flags("--layers", "9", "3", "--image-size", "448", "--pretrained", "none"))
    assert found.layers == (3, 9) and found.image_size == 448 and found.untrained


def test_a_checkpoint_decides_and_other_places_of_its_files_are_taken():
    found = backbone_config(flags("--pretrained", "elsewhere.safetensors"), STORED)
    assert (found.model, found.layers, found.pretrained) == ("ViT-B-16", (3, 6), "elsewhere.safetensors")
    assert backbone_config(flags("--layers", "6", "3"), STORED).layers == (3, 6)


@pytest.mark.parametrize(
    "argv, words",
    [
        (("--model", "ViT-L-14"), "--model ViT-L-14 does not match the checkpoint"),
        (("--layers", "3"), "trained with 3 6"),
        (("--image-size", "448"), "trained with 224"),
    ],
)
def test_a_backbone_that_does_not_match_is_refused(argv, words):
    with pytest.raises(ConfigError, match=words):
        backbone_config(flags(*argv), STORED)


def test_method_of_a_checkpoint():
    stored = MethodConfig(fd="signed")
    assert method_config(flags("--use-nam", "0"), stored, True) == MethodConfig(False, "signed")
    with pytest.raises(ConfigError, match="--fd abs does not match"):
        method_config(flags("--fd", "abs"), stored, True)
    with pytest.raises(ConfigError, match="trained with NAM"):
        method_config(flags("--use-nam", "1"), stored, False)
    assert not method_config(flags(), None, False).use_nam


@pytest.mark.parametrize(
    "argv",
    [
        ("--layers", "0"),
        ("--layers", "x"),
        ("--image-size", "-3"),
        ("--use-nam", "2"),
        ("--fd", "x"),
        ("--winmode", "on"),
        ("--win-size", "0"),
        ("--win-weight", "1.5"),
        ("--win-weight", "nan"),
        ("--workers", "-1"),
        ("--precision", "int8"),
        ("--index-memory", "3"),
    ],
)
def test_values_out_of_range_are_refused_when_parsed(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        flags(*argv)
    reported = capsys.readouterr().err
    assert (
        stopped.value.code == 2
        and reported.startswith(f"error: argument {argv[0]}: ")
        and reported.count("\n") == 1
    )


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb"])
def test_names_that_are_no_folder_are_refused(name):
    with pytest.raises(argparse.ArgumentTypeError):
        name_part(name)


@pytest.mark.parametrize(
    "given, budget", [([], 0), (["--window-budget"], QUARTER), (["--window-budget", "20"], 20)]
)
def test_a_window_budget_needs_no_number(given, budget):
    windows = window_config(flags(*given))
    assert windows.window_budget == budget


def test_windows_resized_to_their_own_size_are_not_resized():
    assert window_config(flags("--win-zip", "13")) == WindowConfig()
    assert window_config(flags("--win-zip", "9")).win_zip == 9


def test_windows_matched_with_whole_images():
    assert window_config(flags("--window-memory", "image")).window_memory == "image"
