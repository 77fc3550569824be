"""Thresholds from the scores of references and from labels."""

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies

from fdsl.thresholds.threshold import (
    AUGMENTED,
    CALIBRATION,
    LEAVE_COPY_OUT,
    LEAVE_ONE_OUT,
    MASKED,
    SELF_MATCH,
    NormalScores,
    Prior,
    batch_threshold,
    conformal_limit,
    labelled_threshold,
)
from utils.errors import ConfigError


def upper_limit(values, kinds, rate, prior=None):
    return NormalScores(values, values, kinds, 0.1, prior).threshold(rate).score


def normal(scores, kinds=None, peaks=None):
    scores = np.asarray(scores, float)
    return NormalScores(
        scores,
        scores if peaks is None else np.asarray(peaks, float),
        np.full(len(scores), LEAVE_ONE_OUT) if kinds is None else np.asarray(kinds),
        0.1,
    )


def test_threshold_keeps_the_target_rate_where_its_assumption_holds():
    generator = np.random.default_rng(0)
    odds = generator.normal(-1.5, 0.2, 20_000)
    scores = 1 / (1 + np.exp(-odds))
    for rate in (0.01, 0.1, 0.5):
        limit = upper_limit(scores[:10_000], np.full(10_000, LEAVE_ONE_OUT), rate)
        assert (scores[10_000:] >= limit).mean() == pytest.approx(rate, abs=0.35 * rate)


@given(strategies.lists(strategies.floats(0, 1), min_size=2, max_size=20), strategies.floats(0.001, 0.4))
@example([0.0, 1.0], 0.03125)
@settings(max_examples=60, deadline=None)
def test_threshold_is_a_score_and_falls_with_the_rate(scores, rate):
    strict, loose = (
        upper_limit(np.array(scores), np.full(len(scores), LEAVE_ONE_OUT), r)
        for r in (rate, min(0.9, 2 * rate))
    )
    assert 0 < loose <= strict < 1


def test_a_single_reference_is_bounded_from_both_sides():
    lenient, strict = np.full(8, 0.10), np.full(8, 0.20)
    kinds = np.repeat([SELF_MATCH, MASKED], 8)
    assert 0.10 < upper_limit(np.concatenate([lenient, strict]), kinds, 0.5) < 0.20
    wide = upper_limit(np.concatenate([lenient, strict]), kinds, 0.01)
    narrow = upper_limit(np.concatenate([lenient + 0.045, strict - 0.045]), kinds, 0.01)
    assert wide > narrow > 0.15


def test_copies_widen_the_spread_but_do_not_move_the_mean():
    kinds = np.array([LEAVE_ONE_OUT, AUGMENTED, AUGMENTED] * 3)
    own, spread = np.array([0.10, 0.11, 0.12]), np.array([-0.05, 0.05])
    values = np.concatenate([[score, *(0.4 + spread)] for score in own])
    narrow = np.concatenate([[score, *(0.4 + spread / 10)] for score in own])
    assert upper_limit(values, kinds, 0.5) == pytest.approx(upper_limit(own, np.full(3, LEAVE_ONE_OUT), 0.5))
    assert upper_limit(values, kinds, 0.01) > upper_limit(narrow, kinds, 0.01)
    assert upper_limit(narrow, kinds, 0.01) < 0.3, (
        "copies that look strange do not push the threshold up by themselves"
    )


def test_one_held_out_score_gives_itself_without_a_warning():
    with np.errstate(all="raise"):
        assert upper_limit(np.array([0.3]), np.array([LEAVE_ONE_OUT]), 0.01) == pytest.approx(0.3)


def test_threshold_says_where_it_comes_from_and_serves_maps_too():
    found = normal([0.1, 0.2, 0.3], peaks=[0.05, 0.1, 0.15]).threshold(0.05)
    assert "0.05" in found.source and "leave-one-out" in found.source
    assert found.pixel_threshold < found.score
    assert "one reference" in normal([0.1, 0.2], kinds=[SELF_MATCH, MASKED]).threshold(0.05).source


def test_labels_give_the_best_f1_with_room_below():
    scores, labels = np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True])
    found = labelled_threshold(scores, labels)
    assert found.score == pytest.approx(0.4)
    assert ((scores >= found.score) == labels).all()
    assert "1.000" in found.source


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_labels_of_one_kind_are_refused(labels):
    with pytest.raises(ConfigError, match="both normal and anomalous"):
        labelled_threshold(np.array([0.1, 0.2]), np.array(labels))


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_bulk_of_a_batch_gives_a_threshold_that_defects_hardly_move(share):
    generator = np.random.default_rng(5)
    good = 1 / (1 + np.exp(-generator.normal(-1.5, 0.2, 4000)))
    bad = np.full(round(share / (1 - share) * len(good)), 0.9)
    found = batch_threshold(np.concatenate([good, bad]), np.concatenate([good, bad]), 0.05)
    assert found.pixel_threshold == found.score and found.score < 0.9
    assert (0.035 if share == 0 else 0.01) < (good >= found.score).mean() < 0.065
    assert "images; transductive" in found.source


def test_a_batch_that_is_too_small_is_refused():
    with pytest.raises(ConfigError, match="needs 8 of them"):
        batch_threshold(np.full(7, 0.3), np.full(7, 0.3), 0.05)
    with pytest.raises(ConfigError, match="needs 8 of them"):
        batch_threshold(np.empty(0), np.empty(0), 0.05)


def test_equal_scores_are_their_own_threshold():
    assert batch_threshold(np.full(9, 0.3), np.full(9, 0.3), 0.05).score == pytest.approx(0.3)


WIDE = Prior(0.2, 0.1, 0.3, 0.2)


@pytest.mark.parametrize(
    "kinds, prior, words",
    [
        ([SELF_MATCH, MASKED], None, "From 1 reference: it cannot show"),
        ([LEAVE_COPY_OUT], WIDE, "0 to 27 of 100 normal images were false alarms, and 53 % of"),
        ([LEAVE_COPY_OUT] * 2, WIDE, "From 2 references: at a target of 1 %, on other products"),
        ([LEAVE_COPY_OUT] * 3, WIDE, "0 to 10 of 100 normal images were false alarms, and 80 % of"),
        ([LEAVE_ONE_OUT] * 2, WIDE, "0 to 40 of 100 normal images were false alarms, and 53 % of"),
        ([LEAVE_ONE_OUT] * 4, WIDE, "0 to 15 of 100 normal images were false alarms, and 80 % of"),
        ([LEAVE_ONE_OUT] * 8, None, "From 8 references: expect several times"),
        ([CALIBRATION] * 19, None, "From 19 calibration images: the target rate holds"),
    ],
)
def test_it_says_how_far_a_threshold_is_to_be_trusted(kinds, prior, words):
    values = np.linspace(0.2, 0.25, len(kinds))
    found = NormalScores(values, values, np.array(kinds), 0.1, prior)
    assert words in found.trust and ("Add calibration images" in found.trust) == (CALIBRATION not in kinds)
    assert ("the ranking more than the decision" in found.trust) == ("53 %" in words)


def test_with_a_prior_the_left_out_references_give_the_mean_and_it_the_rest():
    odds = lambda value: np.log(value / (1 - value))
    prior = Prior(0.2, 0.1, 0.5, 0.3)
    scores, peaks = np.array([0.2, 0.24]), np.array([0.15, 0.18])
    found = NormalScores(scores, peaks, np.array([LEAVE_COPY_OUT] * 2), 0.1, prior).threshold(0.05)
    limits = (found.score, scores, 0.2, 0.1), (found.pixel_threshold, peaks, 0.5, 0.3)
    for limit, values, offset, spread in limits:
        own = odds(values)
        variance = (12 * spread**2 + ((own - own.mean()) ** 2).sum()) / 13
        assert odds(limit) == pytest.approx(own.mean() + offset + 1.6449 * variance**0.5, abs=1e-4)
    many = np.array([0.2, 0.21, 0.19, 0.5])
    kinds = np.array([LEAVE_ONE_OUT] * 4 + [LEAVE_COPY_OUT] * 4)
    with_outlier = NormalScores(np.tile(many, 2), np.tile(many, 2), kinds, 0.1, prior)
    without = NormalScores(many[:3], many[:3], kinds[4:7], 0.1, prior)
    assert with_outlier.outlier == 3 and without.outlier is None
    assert with_outlier.threshold(0.05).score == pytest.approx(without.threshold(0.05).score)


@pytest.mark.parametrize("count, rate", [(19, 0.05), (99, 0.05), (99, 0.01), (30, 0.1)])
def test_calibration_images_guarantee_the_rate_on_average(count, rate):
    """Whatever the scores' distribution: the probability that a new one reaches the limit is at most rate."""
    generator = np.random.default_rng(3)
    draws = generator.gamma(2, 1, (4000, count + 1))
    reached = [new >= conformal_limit(known, rate) for *known, new in draws]
    assert rate - 1.5 / (count + 1) < np.mean(reached) < rate + 3 * (rate / 4000) ** 0.5


def test_too_few_calibration_images_say_which_rate_they_guarantee():
    scores = np.linspace(0.1, 0.3, 9)
    few = NormalScores(scores, scores, np.full(9, CALIBRATION), 0.05)
    found = few.threshold(0.01)
    assert found.score == np.nextafter(0.3, 1) and "guarantee 0.1 at best; 99 guarantee 0.01" in found.source
    assert "guarantee" not in few.threshold(0.1).source
    assert few.threshold(0.5).score == np.nextafter(scores[4], 1)


@pytest.mark.parametrize(
    "kinds",
    [[LEAVE_ONE_OUT, LEAVE_ONE_OUT, AUGMENTED, AUGMENTED, AUGMENTED, AUGMENTED], [SELF_MATCH, MASKED] * 3],
)
def test_percentiles_are_the_inverse_of_thresholds(kinds):
    scores = np.linspace(0.2, 0.4, 6)
    normal = NormalScores(scores, scores, np.array(kinds), 0.1)
    for rate in (0.5, 0.1, 0.01, 1e-4):
        assert normal.percentile(normal.threshold(rate).score) == pytest.approx(100 * (1 - rate), abs=1e-6)
    found = [normal.percentile(score) for score in (0.0, 0.25, 0.3, 0.35, 1.0)]
    assert found == sorted(found) and 0 <= found[0] and found[-1] <= 100


def test_percentiles_of_normal_images_that_all_score_the_same():
    normal = NormalScores(
        np.full(5, 0.25), np.full(5, 0.25), np.array([SELF_MATCH, MASKED, MASKED, SELF_MATCH, MASKED]), 0.1
    )
    assert [normal.percentile(score) for score in (0.2, 0.25, 0.3)] == [0, 50, 100]
