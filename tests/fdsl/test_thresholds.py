"""Thresholds from the scores of references and from labels."""

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies

from fdsl.thresholds import (
    COPY,
    HELD_OUT,
    LENIENT,
    STRICT,
    NormalScores,
    batch_threshold,
    labelled_threshold,
    upper_limit,
)
from utils.errors import ConfigError


def normal(scores, kinds=None, peaks=None):
    scores = np.asarray(scores, float)
    return NormalScores(
        scores,
        scores if peaks is None else np.asarray(peaks, float),
        np.full(len(scores), HELD_OUT) if kinds is None else np.asarray(kinds),
        0.1,
    )


def test_threshold_keeps_the_wished_rate_where_its_assumption_holds():
    generator = np.random.default_rng(0)
    odds = generator.normal(-1.5, 0.2, 20_000)
    scores = 1 / (1 + np.exp(-odds))
    for rate in (0.01, 0.1, 0.5):
        limit = upper_limit(scores[:10_000], np.full(10_000, HELD_OUT), rate)
        assert (scores[10_000:] >= limit).mean() == pytest.approx(rate, abs=0.35 * rate)


@given(strategies.lists(strategies.floats(0, 1), min_size=2, max_size=20), strategies.floats(0.001, 0.4))
@example([0.0, 1.0], 0.03125)
@settings(max_examples=60, deadline=None)
def test_threshold_is_a_score_and_falls_with_the_rate(scores, rate):
    strict, loose = (
        upper_limit(np.array(scores), np.full(len(scores), HELD_OUT), r) for r in (rate, min(0.9, 2 * rate))
    )
    assert 0 < loose <= strict < 1


def test_a_single_reference_is_bounded_from_both_sides():
    lenient, strict = np.full(8, 0.10), np.full(8, 0.20)
    kinds = np.repeat([LENIENT, STRICT], 8)
    assert 0.10 < upper_limit(np.concatenate([lenient, strict]), kinds, 0.5) < 0.20
    wide = upper_limit(np.concatenate([lenient, strict]), kinds, 0.01)
    narrow = upper_limit(np.concatenate([lenient + 0.045, strict - 0.045]), kinds, 0.01)
    assert wide > narrow > 0.15


def test_copies_widen_the_spread_but_do_not_move_the_mean():
    kinds = np.array([HELD_OUT, COPY, COPY] * 3)
    own, spread = np.array([0.10, 0.11, 0.12]), np.array([-0.05, 0.05])
    values = np.concatenate([[score, *(0.4 + spread)] for score in own])
    narrow = np.concatenate([[score, *(0.4 + spread / 10)] for score in own])
    assert upper_limit(values, kinds, 0.5) == pytest.approx(upper_limit(own, np.full(3, HELD_OUT), 0.5))
    assert upper_limit(values, kinds, 0.01) > upper_limit(narrow, kinds, 0.01)
    assert upper_limit(narrow, kinds, 0.01) < 0.3, (
        "copies that look strange do not push the threshold up by themselves"
    )


def test_one_held_out_score_gives_itself_without_a_warning():
    with np.errstate(all="raise"):
        assert upper_limit(np.array([0.3]), np.array([HELD_OUT]), 0.01) == pytest.approx(0.3)


def test_threshold_says_where_it_comes_from_and_serves_maps_too():
    found = normal([0.1, 0.2, 0.3], peaks=[0.05, 0.1, 0.15]).threshold(0.05)
    assert "0.05" in found.source and "leave-one-out" in found.source
    assert found.level < found.score
    assert "one reference" in normal([0.1, 0.2], kinds=[LENIENT, STRICT]).threshold(0.05).source


def test_labels_give_the_best_f1_with_room_below():
    scores, labels = np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True])
    found = labelled_threshold(scores, labels)
    assert found.score == pytest.approx(0.4)
    assert ((scores >= found.score) == labels).all()
    assert "1.000" in found.source


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_labels_of_one_kind_are_refused(labels):
    with pytest.raises(ConfigError, match="both good and anomalous"):
        labelled_threshold(np.array([0.1, 0.2]), np.array(labels))


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_bulk_of_a_batch_gives_a_threshold_that_defects_hardly_move(share):
    generator = np.random.default_rng(5)
    good = 1 / (1 + np.exp(-generator.normal(-1.5, 0.2, 4000)))
    bad = np.full(round(share / (1 - share) * len(good)), 0.9)
    found = batch_threshold(np.concatenate([good, bad]), np.concatenate([good, bad]), 0.05)
    assert found.level == found.score and found.score < 0.9
    assert (0.035 if share == 0 else 0.01) < (good >= found.score).mean() < 0.065
    assert "looks at what it judges" in found.source


def test_a_batch_that_is_too_small_is_refused():
    with pytest.raises(ConfigError, match="needs 8 photographs"):
        batch_threshold(np.full(7, 0.3), np.full(7, 0.3), 0.05)
    with pytest.raises(ConfigError, match="needs 8 photographs"):
        batch_threshold(np.empty(0), np.empty(0), 0.05)


def test_equal_scores_are_their_own_threshold():
    assert batch_threshold(np.full(9, 0.3), np.full(9, 0.3), 0.05).score == pytest.approx(0.3)


@pytest.mark.parametrize("references, words", [(1, "not sure"), (2, "fairly sure"), (4, "rather sure")])
def test_the_threshold_says_how_sure_it_is(references, words):
    kinds = [LENIENT, STRICT] if references == 1 else [HELD_OUT] * references
    values = np.linspace(0.2, 0.25, len(kinds))
    assert words in NormalScores(values, values, np.array(kinds), 0.1).sureness


@pytest.mark.parametrize("kinds", [[HELD_OUT, HELD_OUT, COPY, COPY, COPY, COPY], [LENIENT, STRICT] * 3])
def test_percentiles_are_the_thresholds_turned_round(kinds):
    scores = np.linspace(0.2, 0.4, 6)
    normal = NormalScores(scores, scores, np.array(kinds), 0.1)
    for rate in (0.5, 0.1, 0.01, 1e-4):
        assert normal.percentile(normal.threshold(rate).score) == pytest.approx(100 * (1 - rate), abs=1e-6)
    found = [normal.percentile(score) for score in (0.0, 0.25, 0.3, 0.35, 1.0)]
    assert found == sorted(found) and 0 <= found[0] and found[-1] <= 100


def test_percentiles_of_good_parts_that_are_all_alike():
    normal = NormalScores(
        np.full(5, 0.25), np.full(5, 0.25), np.array([LENIENT, STRICT, STRICT, LENIENT, STRICT]), 0.1
    )
    assert [normal.percentile(score) for score in (0.2, 0.25, 0.3)] == [0, 50, 100]
