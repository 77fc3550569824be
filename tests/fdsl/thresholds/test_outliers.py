"""One broken part among the references: it is named, and the threshold does not follow it."""

import numpy as np
import pytest

from fdsl.api import AnomalyDetector
from fdsl.thresholds.threshold import AUGMENTED, LEAVE_ONE_OUT, NormalScores, outlier
from tests.fdsl.test_api import TINY
from tests.support.photographs import draw, texture
from utils.numbers import log_odds

COPIES = 4


def upper_limit(values, kinds, rate):
    return NormalScores(values, values, kinds, 0.1).threshold(rate).score


def values_of(own, seed=0):
    """Held-out scores and those of their copies, as calibration gives them."""
    generator = np.random.default_rng(seed)
    values, kinds = [], []
    for score in own:
        copies = score + generator.normal(0, 0.005, COPIES)
        values += [score, *copies]
        kinds += [LEAVE_ONE_OUT] + [AUGMENTED] * COPIES
    return np.array(values), np.array(kinds)


@pytest.mark.parametrize(
    "own, expected",
    [
        ((0.16, 0.15, 0.17, 0.30), 3),
        ((0.30, 0.15, 0.16), 0),
        ((0.15, 0.32, 0.16, 0.17, 0.15, 0.16), 1),
        ((0.16, 0.15, 0.17, 0.18), None),
        ((0.14, 0.18, 0.22, 0.26), None),  # they spread as much
        ((0.15, 0.30), None),  # nobody can say which of two is odd
        ((0.16, 0.15, 0.17, 0.05), None),  # better than the others
    ],
)
def test_the_one_that_lies_far_above_the_others_is_an_outlier(own, expected):
    values, kinds = values_of(own)
    assert outlier(log_odds(values), kinds) == expected


def test_the_limit_is_that_of_the_others_alone():
    others, kinds = values_of((0.16, 0.15, 0.17))
    mixed, mixed_kinds = values_of((0.16, 0.15, 0.17, 0.35))
    assert upper_limit(mixed, mixed_kinds, 0.05) == pytest.approx(upper_limit(others, kinds, 0.05), rel=1e-9)
    assert upper_limit(others, kinds, 0.05) < 0.25


def test_a_broken_reference_is_named(tiny_configs, tmp_path, logged):
    settings = {**TINY, "model_config": tiny_configs}
    detector = AnomalyDetector.from_backbone(winmode="nan", **settings)
    for number in range(3):
        draw(tmp_path / f"{number}.png", number)
    detector.fit(tmp_path)
    limit = detector.threshold.score
    assert "far above" not in logged()
    draw(tmp_path / "bröken.png", 9, defect=True)
    detector.fit(tmp_path)
    assert "bröken.png scores far above the other references" in logged()
    assert detector.threshold.score < 1.2 * limit
    assert detector.predict(texture(11, defect=True)).score > 0
