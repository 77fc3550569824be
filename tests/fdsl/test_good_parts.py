"""What other products teach of good parts: the threshold that rests on it, what it is learnt from, and for
which detectors it counts."""

import json
from argparse import Namespace
from dataclasses import asdict, replace
from math import exp, log
from statistics import NormalDist, fmean

import numpy as np
import pytest
from PIL import Image

from benchmarks import thresholds
from benchmarks.other_products import (
    WAYS,
    Row,
    cell,
    holds,
    known_limit,
    learnt,
    main,
    read_rows,
    shares,
    summary,
)
from fdsl.api import AnomalyDetector
from fdsl.good_parts import LEARNT, WITH_TILES, above_of, weight_alone
from fdsl.thresholds import (
    APART,
    COPY,
    HELD_OUT,
    LEARNT_WEIGHT,
    LENIENT,
    STRICT,
    Above,
    NormalScores,
    is_normal,
    upper_limit,
)
from models.methods.registry import METHODS
from tests.support.predictions import TOWER
from tests.support.small_runs import draw_dataset
from utils.config import WindowConfig
from utils.errors import ConfigError

TAUGHT = Above(1.4, 0.5, 0.5, 1.4)


def odds(score):
    return log(score / (1 - score))


def plain_limit(apart, held_out, lenient, above, rate):
    """The threshold, written down as docs/own_parts.md says it."""
    said = above.alone * fmean(map(odds, apart)) + (1 - above.alone) * fmean(map(odds, held_out or lenient))
    squares = LEARNT_WEIGHT * above.spread**2
    if held_out:
        squares += sum((odds(one) - fmean(map(odds, held_out))) ** 2 for one in held_out)
    deviation = (squares / (LEARNT_WEIGHT + max(0, len(held_out) - 1))) ** 0.5
    limit = said + above.shift + NormalDist().inv_cdf(1 - rate) * deviation
    return 1 / (1 + exp(-limit))


@pytest.mark.parametrize(
    "apart, held_out, alone",
    [
        ([0.05], [], 1.0),
        ([0.05], [], 0.75),
        ([0.05, 0.06], [0.2, 0.24], 0.5),
        ([0.05, 0.06, 0.04, 0.05], [0.2, 0.25, 0.19, 0.22], 0.25),
    ],
)
def test_the_threshold_is_that_of_its_plain_transcription(apart, held_out, alone):
    above = replace(TAUGHT, alone=alone)
    other = [0.3, 0.1] * len(held_out) if held_out else [0.01, 0.02, 0.2, 0.3]
    values = np.array([*held_out, *other, *apart])
    kinds = np.array(
        [HELD_OUT] * len(held_out)
        + ([COPY] * len(other) if held_out else [LENIENT, LENIENT, STRICT, STRICT])
        + [APART] * len(apart)
    )
    assert is_normal(values, values, kinds)
    for rate in (0.5, 0.1, 0.05, 0.01):
        expected = plain_limit(apart, held_out, other[:2], above, rate)
        assert upper_limit(values, kinds, rate, above) == pytest.approx(expected, rel=1e-9)
    assert upper_limit(values, kinds, 0.05) == pytest.approx(
        upper_limit(values[kinds != APART], kinds[kinds != APART], 0.05)
    ), "without it what a reference says alone has no say"


def test_it_keeps_the_wished_rate_for_a_product_like_those_it_was_learnt_from():
    generator = np.random.default_rng(3)

    def row():
        apart = generator.normal(-3, 0.5)
        good = apart + 1.5 + generator.normal(0, 0.1) + generator.normal(0, 0.15, 40)
        as_scores = [1 / (1 + np.exp(-one)) for one in (apart, *good)]
        return Row(
            "m", "max", "w", "c", 1, 0, [as_scores[0], as_scores[1]], [APART, STRICT], as_scores[1:], [0.99]
        )

    taught = learnt([row() for _ in range(200)])
    assert taught.shift == pytest.approx(1.5, abs=0.03) and taught.alone == 1
    assert taught.spread == pytest.approx((0.1**2 + 0.15**2) ** 0.5, abs=0.02)
    found = [row().reached(0.05, taught)[0] for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.015)


def test_a_broken_reference_takes_what_it_says_alone_with_it():
    kinds = np.array([HELD_OUT, COPY] * 4 + [APART] * 4)
    values = np.array([0.16, 0.16, 0.15, 0.15, 0.4, 0.4, 0.17, 0.17, 0.05, 0.05, 0.2, 0.05])
    left = np.array([True] * 4 + [False] * 2 + [True] * 4 + [False] + [True])
    assert upper_limit(values, kinds, 0.05, TAUGHT) == pytest.approx(
        upper_limit(values[left], kinds[left], 0.05, TAUGHT)
    )


def test_references_that_are_unlike_all_others_go_by_themselves():
    """As with a backbone whose tokens are of another kind."""
    kinds = np.array([HELD_OUT, COPY, HELD_OUT, COPY, APART, APART])
    for own, like in ((0.22, True), (0.5, False), (0.06, False)):
        values = np.array([own, own, own, own, 0.06, 0.06])
        above = replace(TAUGHT, spread=0.2)
        alone = upper_limit(values, kinds, 0.05)
        assert (upper_limit(values, kinds, 0.05, above) != pytest.approx(alone)) is like


def test_where_what_a_reference_says_alone_has_no_weight_its_copies_say_whether_it_is_like_others():
    kinds = np.array([LENIENT, LENIENT, STRICT, STRICT, APART])
    above = Above(0.2, 0.1, 0.0, 0.25)
    for strict, like in ((0.24, True), (0.2, True), (0.15, False), (0.4, False)):
        values = np.array([0.2, 0.2, strict, strict, 0.01])
        limit = upper_limit(values, kinds, 0.05, above)
        expected = plain_limit([0.01], [], [0.2, 0.2], above, 0.05)
        assert (limit == pytest.approx(expected)) is like
        assert (limit == pytest.approx(upper_limit(values, kinds, 0.05))) is not like


@pytest.fixture
def photographs():
    noise = np.random.default_rng(2)
    return [Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]


def detector(tiny_configs, **more):
    return AnomalyDetector.from_backbone(
        model_config=tiny_configs, device="cpu", precision="fp32", **TOWER, **more
    )


def plainly_apart(made, photograph):
    """Each patch's half cosine distance to the nearest patch further away than two, the mean of all."""
    pixels = made.to_batch([photograph])
    tokens = made.backbone.encode(made.backbone.normalise(pixels)).tokens[:, 0].double().numpy()
    grid, found = made.grid, []
    for block in tokens:
        for one in range(grid**2):
            far = [
                other
                for other in range(grid**2)
                if max(abs(one // grid - other // grid), abs(one % grid - other % grid)) > 2
            ]
            found.append((1 - max(block[one] @ block[other] for other in far)) / 2)
    return fmean(found)


TABLE = {1: Above(1.4, 0.5, 1.0, 1.4), 2: Above(1.1, 0.5, 0.75, 1.4)}


@pytest.fixture
def table(monkeypatch):
    """Known numbers in the place of those that were learnt."""
    numbers = {(method, "max"): TABLE for method in ("nearest", "plus")}
    monkeypatch.setattr("fdsl.good_parts.LEARNT", numbers)
    monkeypatch.setattr("fdsl.thresholds.LIKE_OTHERS", 99.0)  # noise and random weights are like nothing


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("count", [1, 2])
def test_each_reference_says_how_unlike_its_own_patches_are(tiny_configs, photographs, count):
    made = detector(tiny_configs, method="nearest")
    made.remember(photographs[:count], rotations=2)
    normal = made.normal
    apart = normal.scores[normal.kinds == APART]
    assert apart == pytest.approx([plainly_apart(made, one) for one in photographs[:count]], abs=1e-6)
    assert normal.above == TABLE[count]
    assert made.threshold.score == upper_limit(normal.scores, normal.kinds, 0.01, TABLE[count])
    known = normal.kinds != APART
    assert made.threshold.level == upper_limit(normal.peaks[known], normal.kinds[known], 0.01)
    assert "other products" in made.threshold.source and normal.gave(made.threshold)
    assert normal.percentile(made.threshold.score) == pytest.approx(99, abs=1e-6)


@pytest.mark.usefixtures("table")
def test_with_tiles_other_numbers_count_and_whole_images_say_how_unlike_patches_are(
    tiny_configs, photographs, monkeypatch
):
    tiles = WindowConfig("nan", tiles=2)
    made, whole = (detector(tiny_configs, method="plus", windows=one) for one in (tiles, WindowConfig("nan")))
    for one in (made, whole):
        one.remember(photographs[:1])
    assert whole.normal.above == TABLE[1] and made.normal.above is None, "nothing was learnt with tiles"
    with_tiles = Above(0.2, 0.3, 0.0, 1.0)
    numbers = {("plus" + WITH_TILES, "max"): {1: with_tiles}}
    monkeypatch.setattr("fdsl.good_parts.LEARNT", numbers)
    made.remember(photographs[:1])
    normal = made.normal
    assert normal.above == with_tiles
    assert normal.scores[normal.kinds == APART] == whole.normal.scores[whole.normal.kinds == APART]
    lenient = fmean(map(odds, normal.scores[normal.kinds == LENIENT]))
    limit = lenient + 0.2 + NormalDist().inv_cdf(0.95) * 0.3
    assert normal.threshold(0.05).score == pytest.approx(1 / (1 + exp(-limit)))


@pytest.mark.usefixtures("table")
def test_a_saved_detector_keeps_what_was_learnt_when_it_was_made(
    tiny_configs, photographs, tmp_path, monkeypatch
):
    made = detector(tiny_configs, method="nearest")
    made.remember(photographs)
    made.save(tmp_path / "part.safetensors")
    monkeypatch.setattr("fdsl.good_parts.LEARNT", {})
    loaded = AnomalyDetector.load(tmp_path / "part.safetensors", model_config=tiny_configs)
    assert loaded.normal.above == made.normal.above
    loaded.calibrate(0.05)
    made.calibrate(0.05)
    assert loaded.threshold == made.threshold


@pytest.mark.parametrize("numbers", [[1.0, 0.2], [1.0, 0.0, 1.0, 1.0], [np.nan] * 4])
def test_a_file_with_what_cannot_be_learnt_is_no_detector(tiny_configs, photographs, tmp_path, numbers):
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    made = detector(tiny_configs, method="nearest")
    made.remember(photographs[:1])
    file = tmp_path / "part.safetensors"
    made.save(file)
    with safe_open(file, "pt") as opened:
        passport = opened.metadata()
    save_file({**load_file(file), "normal.above": torch.tensor(numbers)}, file, passport)
    with pytest.raises(ConfigError, match="other products taught|not finite"):
        AnomalyDetector.load(file, model_config=tiny_configs)


@pytest.mark.usefixtures("table")
def test_it_counts_only_for_scores_of_the_kind_it_was_learnt_from(tiny_configs):
    def taught(references=3, kind="max", **more):
        return above_of(detector(tiny_configs, **more).scorer.detector, kind, references)

    assert taught(method="nearest") == taught(2, method="plus") == TABLE[2]
    assert taught(1, method="nearest") == TABLE[1]
    assert taught(4, method="nearest") is None, "nothing was learnt of so many"
    assert taught(method="subspace") is None
    assert taught(method="nearest", kind="top1") is None
    assert taught(method="nearest", with_batch=True) is None
    assert taught(method="plus", leave_out=["self"]) is None
    for part in ("bilateral", "early", "early_whole"):
        assert taught(method="plus", leave_out=[part]) == taught(method="plus") is not None
    assert taught(method="plus", leave_out=["early_score"]) is None
    assert taught(method="nearest", windows=WindowConfig("mul", 4, 2)) is None


def test_what_was_learnt_is_of_methods_that_there_are():
    for (method, kind), numbers in LEARNT.items():
        assert method.removesuffix(WITH_TILES) in METHODS and kind in ("max", "top1")
        assert all(one.spread > 0 for one in numbers.values())
        assert {count: one.alone for count, one in numbers.items()} == {
            count: weight_alone(method, count) for count in numbers
        }


def test_a_threshold_holds_within_a_factor_of_two_on_average_and_of_four_at_worst():
    for found, does in (
        ((0.05, 0.05), True),
        ((0.0, 0.05), True),
        ((0.0, 0.04), False),
        ((0.0, 0.2), True),
        ((0.01, 0.2), False),
        ((0.0, 0.0, 0.0, 0.0, 0.21), False),
    ):
        assert holds([(share, 1.0) for share in found], 0.05) is does, found


def test_a_known_product_is_that_of_the_other_draws():
    rows = [Row("m", "max", "w", "c", 1, seed, [0.1], [APART], [0.1 * seed] * 4, [1.0]) for seed in range(3)]
    assert known_limit(rows, rows[2], 0.25) == pytest.approx(0.1)
    assert known_limit(rows, rows[0], 0.25) == pytest.approx(0.2)
    assert rows[2].beyond(known_limit(rows, rows[2], 0.25)) == (1.0, 1.0)


def test_the_benchmark_of_thresholds_can_leave_out_what_others_taught(monkeypatch):
    kinds = np.array([LENIENT, LENIENT, STRICT, STRICT, APART])
    values = np.array([0.2, 0.21, 0.24, 0.25, 0.05])
    normal = NormalScores(values, values, kinds, 0.1, Above(0.3, 0.2, 0.0, 0.25))
    scores = np.linspace(0.1, 0.5, 41)
    judged = dict.fromkeys(thresholds.SCORES, scores), dict.fromkeys(thresholds.SCORES, normal)
    monkeypatch.setattr(thresholds, "drawn", lambda *_: (*judged, scores > 0.4))
    for alone in (False, True):
        args = Namespace(seeds=1, turned=1, references_alone=alone)
        row = thresholds.threshold_rows(None, None, "cup", {}, 1, args)[0]
        limit = upper_limit(values, kinds, 0.05, None if alone else normal.above)
        assert row[4].startswith(f"{(scores[scores <= 0.4] >= limit).mean():.1%} ")


def test_each_way_to_a_threshold_is_judged_by_itself():
    rows = []
    for category, height, strict in (("c", 0.1, 0.14), ("d", 0.2, 0.22)):
        for seed in range(3):
            good = [height + 0.001 * number + 0.002 * seed for number in range(40)]
            said = [height, strict, height / 2]
            rows.append(
                Row("nearest", "max", "w", category, 1, seed, said, [LENIENT, STRICT, APART], good, [1.0])
            )
    counts = dict.fromkeys(WAYS, 0)
    for row, rate, found in shares(rows):
        own = [one for one in rows if one.category == row.category]
        above = learnt([one for one in rows if one.category != row.category])
        for number, one in enumerate(own):
            pooled = np.concatenate([other.good for other in own if other is not one])
            known = one.beyond(float(np.quantile(pooled, 1 - rate)))
            expected = (one.reached(rate, None), one.reached(rate, above), known)
            assert tuple(found[way][number] for way in WAYS) == expected
        for way in WAYS:
            counts[way] += holds(found[way], rate)
    assert len(set(counts.values())) == 3, "the three differ"
    told = [part.strip() for part in summary(rows).splitlines()[-1].split("|")]
    assert told[4:-1] == ["4", *(str(counts[way]) for way in WAYS), "0 of 6"]


def test_a_draw_whose_reference_is_called_unlike_the_others_is_counted():
    kinds = [HELD_OUT] * 4 + [COPY] * 4 + [APART] * 4
    alike = [0.2, 0.21, 0.19, 0.2] * 2 + [0.05] * 4
    apart = [0.2, 0.21, 0.4, 0.2] * 2 + [0.05] * 4
    row = Row("nearest", "max", "w", "c", 4, 0, alike, kinds, [0.2], [1.0])
    assert not row.names_one and replace(row, values=apart).names_one
    rows = [replace(row, category=name, seed=seed) for name in ("c", "d") for seed in (0, 1)]
    assert summary([replace(rows[0], values=apart), *rows[1:]]).splitlines()[-1].endswith("1 of 4          |")


def test_each_draw_is_held_against_others(tmp_path):
    row = Row("nearest", "max", "w", "c", 1, 0, [0.1, 0.1, 0.1], [LENIENT, STRICT, APART], [0.1], [1.0])
    kept = tmp_path / "rows.json"
    kept.write_text(json.dumps([asdict(replace(row, category=name)) for name in ("c", "d")]))
    with pytest.raises(ConfigError, match="two --seeds"):
        main(["--rows", str(kept)])


def test_the_benchmark_learns_and_judges_each_product_by_the_others(tiny_configs, tmp_path, capsys):
    data = draw_dataset(tmp_path / "data", ("cup", "nut"), good=3)
    model = ["--model", "ViT-tiny-test", "--model-config", tiny_configs, "--pretrained", "none"]
    model += ["--layers", "1", "3", "--image-size", "64", "--device", "cpu", "--precision", "fp32"]
    files = ["--cache", str(tmp_path / "cache"), "--rows", str(tmp_path / "rows.json")]
    flags = ["--methods", "nearest", "--shots", "1", "2", "--seeds", "0", "1", *model, *files]
    main([f"mvtec={data}", *flags])
    told = capsys.readouterr().out
    main(flags)
    assert capsys.readouterr().out == told, "kept rows say the same"
    rows = read_rows([tmp_path / "rows.json"])
    assert len(rows) == 2 * 2 * 2 * 2  # products, shots, seeds; max and top1
    singles = [row for row in rows if (row.score, row.shots) == ("max", 1)]
    above = learnt([row for row in singles if row.category == "nut"])
    cups = [row.reached(0.05, above) for row in singles if row.category == "cup"]
    line = next(line for line in told.splitlines() if "| max     | cup" in line)
    alone = cell([row.reached(0.05, None) for row in singles if row.category == "cup"])
    assert f"{alone}" in line and f"{cell(cups)}" in line
    assert f'("nearest", "max"): {{1: Above({learnt(singles).shift:.3f}' in told
    above_said = [row.above(1.0) for row in singles if row.category == "nut"]
    step, spread = (fmean(how(one) for one in above_said) for how in (np.mean, np.std))
    assert f"| {step:+.2f}, {spread:.2f}" in told
    known = [row.beyond(known_limit(singles[:2], row, 0.05)) for row in singles[:2]]
    assert singles[0].category == singles[1].category and cell(known) in told
    held = sum(
        holds([row.reached(rate, None) for row in singles if row.category == name], rate)
        for rate in (0.05, 0.1)
        for name in ("cup", "nut")
    )
    counted = [line for line in told.splitlines() if line.startswith("| nearest  | max ")][-2]
    assert [part.strip() for part in counted.split("|")[3:6]] == ["1", "4", str(held)]
