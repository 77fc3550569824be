"""Which images cannot show what the references show."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from utils.image_statistics import (
    BRIGHT,
    DARK,
    LOST,
    NO_PART,
    NOISY,
    OUT_OF_FOCUS,
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


def lost(image, share, value=0):
    """Without its lowest rows."""
    return np.where(np.arange(SIDE)[:, None] < SIDE * (1 - share), image, value).astype(np.uint8)


def repeated(image, share):
    """With its last rows all alike."""
    return image[:, np.minimum(np.arange(SIDE), round(SIDE * (1 - share)))]


def stored_as_jpeg(image, quality):
    file = BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def smooth_part(seed=0):
    """A block on a ground of slowly changing light."""
    rows, columns = np.indices((SIDE, SIDE))
    image = 150 + columns / 4 + rows / 4 + np.random.default_rng(seed).normal(0, 0.6, (SIDE, SIDE))
    image[40:70, 30:60] = part(seed)[0, 40:70, 30:60]
    return np.stack([image] * 3).astype(np.uint8)


CASES = {
    "black": (frame(0), NO_PART),
    "white": (frame(255), NO_PART),
    "grey ground": (noisy(frame(90), 2), NO_PART),
    "half lost": (lost(part(), 1 / 2), LOST),
    "a third grey": (lost(part(), 1 / 3, 128), LOST),
    "columns lost": (lost(part(), 1 / 3).transpose(0, 2, 1), LOST),
    "a fifth lost": (lost(part(), 1 / 5), LOST),
    "rows repeated": (repeated(part(), 1 / 3), LOST),
    "out of focus": (gaussian_filter(part(), (0, 5, 5)), (OUT_OF_FOCUS, NO_PART)),
    "slightly out of focus": (gaussian_filter(part(), (0, 2, 2)), OUT_OF_FOCUS),
    "sensor noise": (noisy(part(), 100), NOISY),
    "noise": (np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE), np.uint8), NOISY),
    "dark": ((part() * 0.12 + 0.5).astype(np.uint8), (DARK, NO_PART)),
    "a part": (part(7), ""),
    "a part in other light": (part(8, 0.7), ""),
    "a part a little less sharp": (gaussian_filter(part(9), (0, 0.5, 0.5)), ""),
    "a part with a tenth of uniform ground": (lost(part(9), 1 / 10, 90), ""),
    "a part with little noise": (noisy(part(9), 5), ""),
    "a part as JPEG": (stored_as_jpeg(part(9), 50), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_frame_that_shows_no_part_has_a_reason_and_a_part_has_none(case):
    image, expected = CASES[case]
    found = reason_of(statistics_of(image), np.stack([statistics_of(part(seed)) for seed in (1, 2)]))
    assert found in (expected if isinstance(expected, tuple) else (expected,))


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_blocks_of_jpeg_are_no_lost_part(quality):
    """Where light changes slowly, all pixels of a block are alike, but not the next ones."""
    references = np.stack([statistics_of(smooth_part(seed)) for seed in (1, 2)])
    assert reason_of(statistics_of(stored_as_jpeg(smooth_part(3), quality)), references) == ""


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_a_part_lies_anywhere_on_uniform_ground(ground):
    """Its rows and columns of nothing but ground are no lost part, wherever the references have theirs."""

    def on_ground(top, left):
        image = frame(ground)
        image[:, top : top + 12, left : left + 60] = part()[:, :12, :60]
        return statistics_of(image)

    places = [(5, 5), (80, 20), (40, 10)]
    for one in places:
        for other in places:
            assert reason_of(on_ground(*one), on_ground(*other)[None]) == ""
            assert reason_of(on_ground(*one), np.stack([on_ground(*place) for place in places])) == ""


def test_a_little_noise_is_none_where_the_references_are_saturated():
    saturated = frame(255)
    saturated[:, 30:60, 30:60] = part()[:, 30:60, 30:60]
    darker = np.where(saturated == 255, noisy(frame(245), 2), saturated)
    references = statistics_of(saturated)[None]
    assert reason_of(statistics_of(darker), references) == ""
    assert reason_of(statistics_of(noisy(saturated, 30)), references) == NOISY


@pytest.mark.parametrize("deviation", [1.0, 5.0, 20.0])
def test_the_noise_is_that_of_white_noise_whatever_else_the_image_shows(deviation):
    image = np.full((3, 256, 256), 128.0)
    image[:, 64:192, 64:192] = 60
    one = np.random.default_rng(0).normal(0, deviation, image.shape[1:])
    found = statistics_of((image + one).round().clip(0, 255).astype(np.uint8))[4]
    assert 0.7 * deviation < found < 1.1 * deviation


def test_of_uniform_and_very_small_images_all_statistics_are_numbers():
    for side in (4, 5, 20):
        for image in (np.full((3, side, side), 7, np.uint8), part()[:, :side, :side]):
            assert np.isfinite(statistics_of(image)).all()


@pytest.mark.parametrize(
    "found, reason",
    [
        ((100, 40, 5, 0.1, 1, 1), ""),
        ((100, 4.9, 5, 0.1, 1, 1), NO_PART),
        ((12, 40, 5, 0.1, 1, 1), DARK),
        ((237, 40, 5, 0.1, 1, 1), BRIGHT),
        ((100, 40, 0.7, 0.1, 1, 1), OUT_OF_FOCUS),
        ((100, 40, 36, 0.1, 1, 1), NOISY),
        ((100, 40, 5, 0.26, 1, 1), LOST),
        ((100, 40, 5, 0.1, 6.1, 1), NOISY),
        ((100, 40, 5, 0.1, 1, 0.49), OUT_OF_FOCUS),
    ],
)
def test_each_bound_is_relative_to_the_references(found, reason):
    assert reason_of(np.array(found, float), np.array([[100.0, 40, 5, 0.1, 1, 1]])) == reason


def test_what_the_references_span_is_no_reason():
    wide = np.array([[20.0, 10, 1, 0.0, 0, 0.8], [240, 80, 10, 0.6, 4, 1.6]])
    for found in ((10, 5, 0.5, 0.7, 0, 0.45), (250, 90, 60, 0.0, 20, 2)):
        assert reason_of(np.array(found, float), wide) == ""
        assert reason_of(np.array(found, float), np.array([[100.0, 60, 5, 0.1, 1, 1]])) != ""


def test_a_black_reference_is_named_among_several_and_never_all():
    statistics = [statistics_of(part(seed)) for seed in range(3)]
    black = statistics_of(frame(0))
    assert implausible_references(np.stack([*statistics, black])) == [3]
    assert implausible_references(np.stack([black, statistics[0]])) == [0]
    assert implausible_references(np.stack(statistics)) == []
    faint = (110 + 0.05 * part()).astype(np.uint8)  # next to what is lost, black, it has no contrast
    torn = statistics_of(lost(faint, 1 / 3))
    assert implausible_references(np.stack([statistics_of(faint), torn])) == [1]
    assert implausible_references(np.stack([torn, statistics_of(faint)])) == [0]
    assert implausible_references(np.stack([black])) == [] == implausible_references(np.stack([black, black]))
