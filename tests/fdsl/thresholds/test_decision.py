"""What a detector decides by: its parts, and what becomes of them when references change."""

import numpy as np
import pytest

from fdsl.config.run_config import Threshold
from fdsl.thresholds.decision import Decision, checked_labels
from fdsl.thresholds.threshold import CALIBRATION, LEAVE_ONE_OUT, NormalScores
from utils.config import AUTO
from utils.errors import ConfigError

GIVEN = Threshold(0.7, None, "given")


def scores(kind=LEAVE_ONE_OUT, count=4):
    values = np.linspace(0.1, 0.2, count)
    return NormalScores(values, values / 2, np.full(count, kind), 0.05)


def test_a_rate_and_trust_are_of_a_threshold_from_normal_scores_alone():
    own = Decision(normal=scores()).at(0.05)
    assert own.rate == 0.05 and own.trust and own.percentile(0.9) > own.percentile(0.1)
    for other in (Decision(), Decision(GIVEN), Decision(GIVEN, scores())):
        assert other.rate is None and other.trust == ""
    assert Decision(GIVEN).percentile(0.5) is None


def test_a_rate_needs_normal_scores():
    with pytest.raises(ConfigError, match="No scores of normal images are known"):
        Decision(GIVEN).at(0.1)
    with pytest.raises(ConfigError, match="false_alarm_rate is 2, which is not"):
        Decision(normal=scores()).at(2)


@pytest.mark.parametrize(
    "before, asked, rate, keeps",
    [
        (Decision(normal=scores()).at(0.05), AUTO, 0.05, False),
        (Decision(GIVEN, scores()), AUTO, 0.01, True),
        (Decision(GIVEN), AUTO, None, True),
        (Decision(GIVEN, scores()), 0.2, 0.2, False),
        (Decision(GIVEN, scores()), None, None, False),
    ],
)
def test_a_threshold_that_somebody_chose_outlives_a_change_of_references(before, asked, rate, keeps):
    assert before.rate_of_refit(asked) == rate
    other = Decision() if rate is None else Decision(normal=scores(count=6)).at(rate)
    after = before.refitted(other, asked)
    assert after.normal is other.normal
    assert after.threshold == (before.threshold if keeps else other.threshold)


def test_a_calibration_ends_with_its_references(logged):
    other = Decision(normal=scores()).at(0.05)
    assert Decision(normal=scores(CALIBRATION)).at(0.05).refitted(other, AUTO) == other
    assert "give the calibration images again" in logged()
    with pytest.raises(ConfigError, match="false_alarm_rate is always"):
        other.rate_of_refit("always")


def test_heat_begins_below_where_it_is_opaque():
    for one in (Decision(), Decision(GIVEN), Decision(normal=scores()), Decision(normal=scores()).at(0.4)):
        low, high = one.heat_scale(0.5)
        assert 0 < low < high
    assert Decision().heat_scale(0.5) == (0.125, 0.25)
    assert Decision(Threshold(0.7, 0.3, "batch")).heat_scale(0.5) == (0.15, 0.3)


def test_labels_are_both_true_and_false():
    assert checked_labels(iter([True, False])).tolist() == [True, False]
    for wrong in ([True, True], [0.5, True], 3, [np.ones(2), np.zeros(2)]):
        with pytest.raises(ConfigError, match="labels"):
            checked_labels(wrong)
