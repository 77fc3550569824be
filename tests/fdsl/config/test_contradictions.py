"""What does not go together is refused in one place, each rule by its own sentence."""

from dataclasses import replace

import pytest

from fdsl.config.contradictions import RULES, Combined
from fdsl.config.resolve import given_settings
from fdsl.config.run_config import DetectorConfig
from tests.support.run_config import MACHINE
from utils.config import BackboneConfig, MachineFacts, MethodConfig, WindowConfig
from utils.errors import ConfigError

WHOLE = WindowConfig("nan")
CASES = [
    ("plus", {"leave_out": ("heads",)}, WHOLE, {}, "heads does not go with --method plus.*common-mode"),
    ("nearest", {"leave_out": ("top-k",)}, WHOLE, {}, "it has no components to leave out"),
    ("both", {"fd": "none"}, WHOLE, {}, "--method both needs a discrepancy"),
    ("nearest", {}, WindowConfig("mul", tiles=2), {}, "--tiles does not go with local windows"),
    ("fdsl", {}, WindowConfig("mul", 5, 9), {}, "--win-stride 9 is larger than --win-size 5"),
    ("fdsl", {}, WindowConfig(window_memory="image", index_memory="1"), {}, "with --index-memory 1"),
    ("batch", {}, WindowConfig("mul"), {}, "--winmode mul does not go with --method batch"),
    ("batch", {"with_batch": True}, WHOLE, {}, "--with-batch does not go with --method batch"),
    (
        "fdsl",
        {"roi": "mask.png"},
        WindowConfig("mul", index_memory="1"),
        {},
        "--roi and --ignore do not go with --index-memory 1",
    ),
    ("batch", {"ignore": "mask.png"}, WHOLE, {}, "--roi and --ignore do not go with mutual scoring"),
    ("nearest", {"grey_range": "2:1"}, WHOLE, {}, "--grey-range 2:1 is no range: give LOW:HIGH"),
    ("nearest", {"object": "nut"}, WHOLE, {}, "are words for text"),
    ("subspace", {"with_text": True}, WHOLE, {}, "defined for fdsl, nearest, plus"),
    ("fdsl", {"with_text": True, "fd": "none"}, WHOLE, {}, "trained on --fd none"),
    ("fdsl", {"with_text": True}, WindowConfig(index_memory="1"), {}, "with --index-memory 1"),
    ("text", {"with_batch": True}, WHOLE, {}, "--with-batch does not go with --method text"),
    ("text", {}, WindowConfig("nan", tiles=2), {}, "--tiles does not go with --method text"),
    ("batch", {}, WHOLE, {"k_shot": 1}, "--method batch takes no references: leave .* --k-shot out"),
    ("text", {}, WHOLE, {"k_shot": 0, "rotations": 4}, "add --with-text to a method that does"),
    ("nearest", {"with_batch": True}, WHOLE, {"k_shot": 0}, "give at least one, or compare"),
    ("fdsl", {}, WHOLE, {"k_shot": 0}, "only with heads trained on --fd none"),
    ("nearest", {}, WHOLE, {"k_shot": 0}, "leaves --method nearest nothing to compare with"),
]


@pytest.mark.parametrize("method, options, windows, run, words", CASES)
def test_a_contradiction_is_refused(method, options, windows, run, words):
    with pytest.raises(ConfigError, match=words) as refused:
        Combined(method, MethodConfig(**options), windows, **run).refuse()
    assert str(refused.value).startswith("--") and str(refused.value).endswith(".")
    if not run:
        encoder, machine = BackboneConfig(), MachineFacts(**MACHINE)
        with pytest.raises(ConfigError, match=words):
            DetectorConfig(
                method=method,
                backbone=encoder,
                options=MethodConfig(**options),
                windows=windows,
                machine=machine,
            )


def test_every_rule_has_a_case():
    cases = [Combined(name, MethodConfig(**given), windows, **run) for name, given, windows, run, _ in CASES]
    cases += [given_settings(given) for given, _ in WITHOUT_EFFECT]
    for rule in RULES:
        assert any(map(rule.refuses, cases)), rule.sentence


WITHOUT_EFFECT = [
    ({"method": "nearest", "use_nam": True}, "--use-nam does not go with --method nearest, which has no"),
    ({"method": "plus", "checkpoint": "x"}, "--checkpoint does not go with --method plus, which has no"),
    ({"method": "subspace", "align": "diff2"}, "--align does not go with --method subspace, which searches"),
    ({"fd": "none", "align": "diff2"}, "--align does not go with --method fdsl, which searches"),
    (
        {"method": "subspace", "winmode": "mul", "index_memory": "1"},
        "--index-memory chooses among the windows of references",
    ),
    ({"method": "nearest", "win_size": 9}, "--win-size is for local windows"),
    ({"tiles": 2, "win_stride": 2}, "--win-stride is for local windows"),
    ({"winmode": "onlywin", "win_weight": 0.5}, "--win-weight is the share of local windows"),
    ({"method": "nearest", "object": "object"}, "are words for text"),
]


@pytest.mark.parametrize("given, words", WITHOUT_EFFECT)
def test_a_given_setting_without_effect_is_refused(given, words):
    """Also where its value is the default one."""
    name = next(reversed(given))
    with pytest.raises(ConfigError, match=words):
        given_settings(given).refuse_without_effect()
    assert name in given_settings(given).without_effect()
    given_settings({**given, name: None}).refuse_without_effect()


def test_what_goes_together_is_made_and_cannot_be_changed_to_what_does_not():
    for name, options, windows, run in (
        ("plus", {"leave_out": ("top-k",)}, WindowConfig("nan", tiles=2), {"k_shot": 1, "rotations": "auto"}),
        ("fdsl", {"with_text": True, "object": "nut"}, WindowConfig(), {"k_shot": 4}),
        ("batch", {}, WindowConfig("nan", 5, 9, tiles=2), {"k_shot": 0, "rotations": 1}),
        ("fdsl", {"fd": "none"}, WindowConfig(), {"k_shot": 0}),
    ):
        Combined(name, MethodConfig(**options), windows, **run).refuse()
    made = DetectorConfig(
        method="plus",
        backbone=BackboneConfig(),
        options=MethodConfig(),
        windows=WHOLE,
        machine=MachineFacts(**MACHINE),
    )
    with pytest.raises(ConfigError, match="--tiles does not go with local windows"):
        replace(made, windows=WindowConfig("mul", tiles=2))
    with pytest.raises(ConfigError, match="--method magic is not known; choose one of fdsl, nearest"):
        replace(made, method="magic")
