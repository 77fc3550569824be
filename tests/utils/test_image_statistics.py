"""Which images cannot show what the references show."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from utils.image_statistics import (
    BRIGHT,
    DARK,
    NO_PART,
    NOISY,
    OUT_OF_FOCUS,
    UNIFORM,
    implausible_references,
    reason_of,
    statistics_of,
)

SIDE = 96


def part(seed=0, light=1.0):
    """A plate with a pattern on a grey ground, (3,S,S) uint8."""
    generator = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE))
    image = 90 + 60 * (((rows // 6) + (columns // 6)) % 2) + generator.normal(0, 4, (SIDE, SIDE))
    return np.clip(np.stack([image] * 3) * light, 0, 255).astype(np.uint8)


def frame(value):
    return np.full((3, SIDE, SIDE), value, np.uint8)


def noisy(image, deviation):
    values = image + np.random.default_rng(1).normal(0, deviation, image.shape)
    return np.clip(values, 0, 255).astype(np.uint8)


def half_lost(image):
    return np.where(np.arange(SIDE)[:, None] < SIDE // 2, image, 0).astype(np.uint8)


CASES = {
    "black": (frame(0), NO_PART),
    "white": (frame(255), NO_PART),
    "grey ground": (noisy(frame(90), 2), NO_PART),
    "half lost": (half_lost(part()), UNIFORM),
    "out of focus": (gaussian_filter(part(), (0, 5, 5)), (OUT_OF_FOCUS, NO_PART)),
    "noise": (np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE), np.uint8), None),
    "dark": ((part() * 0.12 + 0.5).astype(np.uint8), (DARK, NO_PART)),
    "a part": (part(7), ""),
    "a part in other light": (part(8, 0.7), ""),
    "a part slightly out of focus": (gaussian_filter(part(9), (0, 1, 1)), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_frame_that_shows_no_part_has_a_reason_and_a_part_has_none(case):
    image, expected = CASES[case]
    found = reason_of(statistics_of(image), np.stack([statistics_of(part(seed)) for seed in (1, 2)]))
    if expected is None:
        assert found in (NOISY, "")
    else:
        assert found in (expected if isinstance(expected, tuple) else (expected,))


@pytest.mark.parametrize(
    "found, reason",
    [
        ((100, 40, 5, 0.1), ""),
        ((100, 4.9, 5, 0.1), NO_PART),
        ((12, 40, 5, 0.1), DARK),
        ((237, 40, 5, 0.1), BRIGHT),
        ((100, 40, 0.7, 0.1), OUT_OF_FOCUS),
        ((100, 40, 36, 0.1), NOISY),
        ((100, 40, 5, 0.36), UNIFORM),
    ],
)
def test_each_bound_is_relative_to_the_references(found, reason):
    assert reason_of(np.array(found, float), np.array([[100.0, 40, 5, 0.1]])) == reason


def test_what_the_references_span_is_no_reason():
    wide = np.array([[20.0, 10, 1, 0.0], [240, 80, 10, 0.6]])
    for found in ((10, 5, 0.5, 0.8), (250, 90, 60, 0.0)):
        assert reason_of(np.array(found, float), wide) == ""
        assert reason_of(np.array(found, float), np.array([[100.0, 60, 5, 0.1]])) != ""


def test_a_black_reference_is_named_among_several_and_never_all():
    statistics = [statistics_of(part(seed)) for seed in range(3)]
    black = statistics_of(frame(0))
    assert implausible_references(np.stack([*statistics, black])) == [3]
    assert implausible_references(np.stack([black, statistics[0]])) == [0]
    assert implausible_references(np.stack(statistics)) == []
    assert implausible_references(np.stack([black])) == [] == implausible_references(np.stack([black, black]))
