"""How many digits of scores are shown."""

import numpy as np
import pytest

from utils.numbers import digits_of


@pytest.mark.parametrize(
    "values, digits",
    [
        ([0.1234, 0.5, 0.25], 4),
        ([0.10001, 0.10002], 5),
        ([0.00010000012, 0.00010000034, 0.00010000078], 7),
        ([0.5, 0.5, 0.5], 4),
        ([1.0, 1.0 + 1e-15], 9),
        ([], 4),
        ([0.25, None, float("nan"), float("nan"), float("nan")], 4),
    ],
)
def test_scores_are_told_apart(values, digits):
    assert digits_of(values) == digits


def test_a_few_that_are_nearly_equal_do_not_lengthen_all():
    usual = np.random.default_rng(0).uniform(0.1, 1, 200).round(3)
    assert digits_of([*usual, 0.5, 0.50000001]) == 4
