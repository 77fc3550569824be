"""Names of runs: readable, different where settings are, and of the published method as its scripts have
them."""

from dataclasses import replace

import pytest

from fdsl.config.contradictions import OF_DETECTORS
from fdsl.config.resolve import backbone_config
from fdsl.config.run_config import RunConfig
from fdsl.evaluation.run_folder import RunFolder
from fdsl.evaluation.run_name import name_of
from tests.support.run_config import a_config
from utils.config import QUARTER
from utils.files import write_json
from utils.options import COMPONENTS, TEXT, as_stored, from_stored

DINO = backbone_config({"model": "timm/vit_small_patch14_reg4_dinov2.lvd142m", "image_size": 448})
PLUS = {"method": "plus", "image_score": "max", "rotations": "auto", "windows__winmode": "nan"}
NAMED = {"model": "ViT-B-16", "leave_out": ["bilateral"], "grey_range": "0:1"}  # what not every text can be


def run_of(**changes):
    return from_stored(RunConfig, a_config(14, **changes))


@pytest.mark.parametrize(
    "changes, name",
    [
        ({}, "mul_13_2_0.5"),
        ({"windows__winmode": "nan", "options__use_nam": False}, "nan_nonam"),
        ({"windows__win_zip": 9, "windows__window_budget": 20}, "mul_13_2_0.5_zip9_budget20"),
        (
            {"windows__window_memory": "image", "windows__window_budget": QUARTER},
            "mul_13_2_0.5_wholebank_budget",
        ),
        ({"image_score": "max", "metric_size": 64}, "mul_13_2_0.5_max_at64"),
        ({"checkpoint": "elsewhere/heads.pth"}, "mul_13_2_0.5_271a41"),
        (PLUS, "plus"),
        ({**PLUS, "rotations": 8, "windows__tiles": 2}, "plus_tiles2_rot8"),
        ({**PLUS, "rotations": 1, "image_score": "paper"}, "plus_paper_rot1"),
        ({**PLUS, "windows__winmode": "mul", "windows__win_size": 9}, "plus_mul_9_2_0.5"),
        ({**PLUS, "options__with_text": True, "options__object": "metal nut"}, "plus_text_object-metal-nut"),
        ({**PLUS, "backbone": as_stored(DINO)}, "plus_dinov2-small"),
        ({**PLUS, "backbone": as_stored(replace(DINO, layers=(3, 9)))}, "plus_dinov2-small_layers3-9"),
        ({**PLUS, "backbone__pretrained": "none"}, "plus_untrained"),
        ({"method": "both", "image_score": "max"}, "both"),
    ],
)
def test_names_tell_the_method_and_what_is_not_its_default(changes, name):
    assert name_of(run_of(**changes)) == name


def another_value(option):
    """A value of an option that is not the default."""
    if option.name in NAMED or option.choices or option.kind is bool:
        values = [NAMED.get(option.name), *option.choices, True, False]
        return next(value for value in values if value not in (None, option.default))
    usual = option.default[0] if option.many and option.default else option.default
    value = "x" if option.span is None else usual + 1 if option.kind is int else option.span[0]
    return [value] if option.many else value


def test_a_run_that_differs_in_one_option_has_another_name():
    config = a_config(14)
    names = [name_of(run_of(method=method)) for method in ("fdsl", "plus", "nearest")]
    for name, option in OF_DETECTORS.items():
        if name == "model_config":  # where a file lies
            continue
        part = next(part for part in ("backbone", "options", "windows") if name in config[part])
        more = {"options__with_text": True} if option.needs == TEXT else {}
        more |= {"windows__winmode": "nan"} if name in ("roi", "ignore", "tiles") else {}
        method = "plus" if option.needs == COMPONENTS else "nearest" if part == "backbone" else "fdsl"
        names.append(name_of(run_of(method=method, **{**more, f"{part}__{name}": another_value(option)})))
    assert len(set(names)) == len(names)


def test_what_one_name_fits_has_two_folders_and_each_is_found_again(tmp_path):
    """The first keeps the name, whatever is asked for afterwards; heads that were trained again do, too."""
    one, other = run_of(), run_of(machine__precision="float32")
    first = RunFolder(tmp_path, one).path
    write_json(first / "config.json", as_stored(one))
    second = RunFolder(tmp_path, other).path
    write_json(second / "config.json", as_stored(other))
    assert first.name == "mul_13_2_0.5" and second.name.startswith("mul_13_2_0.5_")
    assert RunFolder(tmp_path, one).path == first and RunFolder(tmp_path, other).path == second
    assert RunFolder(tmp_path, run_of(checkpoint_digest="cd" * 32, files="ef")).path == first
    elsewhere = run_of(checkpoint="old/fdsl/visa.safetensors", checkpoint_digest="cd" * 32)
    assert RunFolder(tmp_path, elsewhere).path not in (first, second)


def test_runs_of_other_heads_never_replace_each_other(tmp_path):
    """Heads of one name in three places: each run keeps its folder, in whatever order they come."""
    places = [run_of(checkpoint=f"{place}/fdsl/visa.safetensors", checkpoint_digest=2 * place * 16)
              for place in ("aa", "bb", "cc")]  # fmt: skip
    folders = []
    for config in places:
        folders.append(RunFolder(tmp_path, config).path)
        write_json(folders[-1] / "config.json", as_stored(config))
    assert len(set(folders)) == 3
    assert [RunFolder(tmp_path, config).path for config in places] == folders


def test_another_architecture_under_one_name_is_another_run():
    one, other = (run_of(backbone__pretrained="none", backbone__model_config=name) for name in ("a", "b"))
    assert one.identity("run") != other.identity("run")
