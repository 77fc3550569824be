"""Distributions of pixel scores: what they hold, how they are stored, and where the report shows them."""

import json

import numpy as np
import pytest

from fdsl.metrics.exact import PixelMetrics
from fdsl.metrics.overlap import BINS, Overlap
from fdsl.report.charts import overlap_svg


@pytest.fixture
def pixels():
    noise = np.random.default_rng(0)
    masks = noise.random((3, 30, 30)) < 0.2
    return noise.normal(masks * 1.5, 1).astype(np.float32), masks


def fed(scores, masks):
    metrics = PixelMetrics()
    for score, mask in zip(scores, masks):
        metrics.update(score, mask)
    return metrics


def test_each_bin_holds_its_share_of_the_pixels(pixels):
    scores, masks = pixels
    found = fed(scores, masks)
    overlap = found.overlap()
    assert (overlap.low, overlap.high) == pytest.approx((scores.min(), scores.max()))
    width = (overlap.high - overlap.low) / BINS
    place = np.minimum((scores.astype(float) - overlap.low) // width, BINS - 1)
    common = 0
    for number in range(BINS):
        normal, defects = ((place[part] == number).mean() for part in (~masks, masks))
        common += min(normal, defects)
        assert overlap.normal[number] == pytest.approx(normal, abs=1e-3)
        assert overlap.defects[number] == pytest.approx(defects, abs=3e-3)
    assert overlap.share == pytest.approx(common, abs=0.01) and 0.3 < overlap.share < 0.6


def test_pixels_that_are_apart_have_nothing_in_common_and_one_kind_has_no_overlap():
    found = PixelMetrics()
    found.update(np.zeros((4, 4), np.float32), np.zeros((4, 4), bool))
    assert found.overlap() is None
    found.update(np.ones((4, 4), np.float32), np.ones((4, 4), bool))
    assert found.overlap().share == 0
    same = PixelMetrics()
    same.update(np.ones((2, 2), np.float32), np.array([[True, False], [False, False]]))
    assert same.overlap().share == 1


def test_it_is_stored_and_what_is_none_is_passed_over(pixels):
    found = fed(*pixels)
    values = json.loads(json.dumps(found.overlap().to_json()))
    assert Overlap.from_json(values) == found.overlap()
    for wrong in (
        {"low": None},
        {"normal": [1]},
        {"defects": ["x"] * BINS},
        {"normal": [0] * BINS},
        {"high": 1e999},
    ):
        assert Overlap.from_json({**values, **wrong}) is None
    assert Overlap.from_json([1]) is None


def test_the_picture_has_both_kinds_and_says_what_they_share(pixels):
    found = fed(*pixels)
    drawn = overlap_svg(found.overlap())
    assert drawn.count('<path class="normal area"') == drawn.count('<path class="defect area"') == 1
    assert f"{found.overlap().share:.0%} of the areas in common" in drawn
