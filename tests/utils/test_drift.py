"""Photographs as a whole beside the references: what changes for all of them is reported once, with one that
shows it."""

import numpy as np
import pytest

from utils.drift import Drift

REFERENCES = np.array([[100.0, 40.0, 8.0, 0.1], [104.0, 42.0, 9.0, 0.1]])
WINDOW = 20


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    monkeypatch.setattr("utils.drift.WINDOW", WINDOW)


def follow(drift, count, change=(1, 1, 1), score=50.0, seed=0, begin=0):
    """The sentences of `count` photographs like the references, times a change."""
    generator, found = np.random.default_rng(seed), []
    for number in range(begin, begin + count):
        values = np.append([102, 41, 8.5] * generator.normal(1, 0.03, 3) * change, 0.1)
        percentile = None if score is None else float(np.clip(generator.normal(score, 20), 0, 100))
        found += drift.follow({**row(values, percentile), "image": f"{number}.png"})
    return found


@pytest.mark.parametrize(
    "change, kind",
    [
        ((0.8, 1, 1), "darker"),
        ((1.2, 1, 1), "brighter"),
        ((1, 0.5, 1), "of less contrast"),
        ((1, 1, 0.5), "less sharp"),
        ((1, 1, 2), "sharper"),
    ],
)
def test_a_change_of_all_is_reported_once_and_again_after_it_was_over(change, kind):
    drift = Drift(REFERENCES)
    assert follow(drift, 3 * WINDOW) == [] and drift.changes == {}
    (sentence,) = follow(drift, 3 * WINDOW, change, begin=100)
    assert f"are {kind} than the references" in sentence and list(drift.changes) == [kind]
    shown = int(sentence.rsplit(" ", 1)[1].removesuffix(".png"))
    assert shown >= 100  # one of those that have changed
    assert follow(drift, 3 * WINDOW, begin=300) == [] and drift.changes == {}
    assert len(follow(drift, 3 * WINDOW, change, begin=400)) == 1


def test_scores_that_rise_are_reported():
    drift = Drift(REFERENCES)
    assert follow(drift, 2 * WINDOW, score=40) == []
    (sentence,) = follow(drift, 2 * WINDOW, score=95)
    assert "score higher than the first 20" in sentence and list(drift.changes) == ["higher scores"]


def test_what_stays_as_it_is_is_never_reported(monkeypatch):
    monkeypatch.undo()
    for seed in range(20):
        assert follow(Drift(REFERENCES), 500, seed=seed) == []


def test_without_references_or_percentiles_the_first_photographs_say_what_is_usual():
    drift = Drift(np.empty((0, 4)))
    assert follow(drift, 3 * WINDOW, score=None) == []
    assert len(follow(drift, 2 * WINDOW, (0.7, 1, 1), score=None)) == 1


def test_a_line_that_looks_otherwise_than_the_references_from_the_first_day_is_its_own_measure():
    drift = Drift(REFERENCES)
    assert follow(drift, 5 * WINDOW, (0.7, 1, 1)) == []
    assert len(follow(drift, 2 * WINDOW, (0.5, 1, 1))) == 1


def row(statistics, percentile=50.0, reason=None):
    return {"image": "a.png", "statistics": statistics, "normal_percentile": percentile, "reason": reason}


def test_rows_that_cannot_be_judged_or_have_no_statistics_do_not_count(monkeypatch):
    monkeypatch.setattr("utils.drift.WINDOW", 2)
    drift = Drift(REFERENCES)
    for one in 9 * [row(None), row([1, 1, 1], reason="out of focus")]:
        assert drift.follow(one) == []
    rows = 2 * [row([100.0, 40.0, 5.0])] + 2 * [row([10.0, 40.0, 5.0], None)]
    assert len([sentence for one in rows for sentence in drift.follow(one)]) == 1
