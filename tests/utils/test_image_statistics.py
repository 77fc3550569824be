"""Which images cannot show what the references show."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from utils.image_statistics import (
    BRIGHT,
    COLOUR_LOST,
    DARK,
    DIFFERENT,
    HARSH,
    LESS_PART,
    LOST,
    NO_PART,
    NOISY,
    OUT_OF_FOCUS,
    SHIFTED,
    implausible_references,
    reason_of,
    reason_of_map,
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


def torn(image, share):
    """With its rows shifted by that share of their length, from a third of the height on."""
    row, shift = len(image[0]) // 3, round(share * len(image[0]))
    return np.concatenate([image[:, :row], np.roll(image[:, row:], shift, 2)], 1)


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


def enlarged(seed=0, contrast=50, smooth=0.7):
    """A texture as on a small photograph that was enlarged, as smooth as a blurred one."""
    small = gaussian_filter(np.random.default_rng(seed).normal(0, 1, (112, 112)), smooth)
    image = Image.fromarray(150 + contrast * small).resize((448, 448), Image.Resampling.BICUBIC)
    return np.stack([np.asarray(image)] * 3).clip(0, 255).astype(np.uint8)


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
    "black and white": (np.where(part(7) > part(7).mean(), 255, 0).astype(np.uint8), HARSH),
    "a part in harsher light": ((60 + 1.5 * (part(7) - 60.0)).clip(0, 255).astype(np.uint8), ""),
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


@pytest.mark.parametrize(
    "image, expected",
    [
        (gaussian_filter(enlarged(7), (0, 8, 8)), OUT_OF_FOCUS),
        (enlarged(7, contrast=8, smooth=0), NO_PART),  # a third of their contrast, and nothing but noise
        (torn(enlarged(7), 1 / 3), SHIFTED),
        (torn(enlarged(7), 1 / 10), SHIFTED),
        (torn(enlarged(7), 1 / 50), ""),
        (enlarged(7), ""),
        (stored_as_jpeg(enlarged(7), 10), ""),
        (enlarged(7)[:, :, ::-1], ""),
    ],
)
def test_a_smooth_photograph_is_no_blurred_one_and_a_blurred_one_of_it_is(image, expected):
    references = np.stack([statistics_of(enlarged(seed)) for seed in (1, 2)])
    assert reason_of(statistics_of(image), references) == expected
    assert reason_of(statistics_of(image), references[:1]) == expected


def test_rows_that_are_staggered_by_themselves_are_no_tear():
    """The squares of every second row lie beside those above; small images are not asked."""

    def larger(image):
        return image.repeat(2, 1).repeat(2, 2)

    assert statistics_of(larger(part()))[7] > 0.9 and statistics_of(part())[7] == 0
    assert reason_of(statistics_of(larger(part(3))), statistics_of(larger(part(4)))[None]) == ""
    assert reason_of(statistics_of(larger(part(3))), statistics_of(enlarged(4))[None]) == SHIFTED


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_lost_colour_is_named_and_one_that_the_references_lack_is_not(number):
    coloured = (enlarged(1) * np.array([1, 0.8, 0.5])[:, None, None]).astype(np.uint8)
    without = np.where(np.arange(3)[:, None, None] == number, 0, coloured).astype(np.uint8)
    references = np.stack([statistics_of(coloured)])
    assert reason_of(statistics_of(without), references) == COLOUR_LOST
    full = np.where(np.arange(3)[:, None, None] == number, 255, coloured).astype(np.uint8)
    assert reason_of(statistics_of(full), references) == COLOUR_LOST
    assert reason_of(statistics_of(without), np.stack([statistics_of(without)])) == ""
    assert implausible_references(np.stack([*references, statistics_of(without)])) == {1: COLOUR_LOST}


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


def on_uneven_ground(seed, left=24):
    """A red plate of half the side on ground as bright as it, with a gradient of light; its left edge."""
    ground = np.indices((SIDE, SIDE)).sum(0) / 8 + np.random.default_rng(seed).normal(110, 2, (SIDE, SIDE))
    image = np.stack([ground] * 3)
    left, right = max(left, 0), min(left + 48, SIDE)
    image[:, 24:72, left:right] += np.array([80, -40, -40])[:, None, None]
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [96, 224, 448])
def test_a_part_that_is_mostly_out_of_the_frame_has_a_reason(size):
    def statistics(image):
        resized = Image.fromarray(image.transpose(1, 2, 0)).resize((size, size))
        return statistics_of(np.asarray(resized).transpose(2, 0, 1))

    references = np.stack([statistics(on_uneven_ground(seed)) for seed in (1, 2)])
    assert 0.15 < references[0, 9] < 0.35
    for left in (84, 90):
        assert reason_of(statistics(on_uneven_ground(3, left)), references) == LESS_PART
    for left in (0, 12, 36, 60):
        assert reason_of(statistics(on_uneven_ground(3, left)), references) == ""


def test_a_texture_is_all_ground_and_never_shows_less_of_the_part():
    for image in (part(1), enlarged(1)):
        known, moved = statistics_of(image), statistics_of(np.roll(image, len(image[0]) // 2, 2))
        assert known[9] < 0.05 and reason_of(moved, known[None]) == ""
    without = np.array([[100.0, 40, 5, 0.1, 1, 1, 1.2, 0, 40, 0.09, 0.09]])
    assert reason_of(np.append(without[0, :9], (0.0, 0.0)), without) == ""


def test_a_part_in_light_from_one_side_is_no_smaller_one():
    """The ground then differs among itself as much as the part does from it; of a frame of ground it hides
    nothing."""
    references = np.stack([statistics_of(on_uneven_ground(seed)) for seed in (1, 2)])
    light = np.linspace(-60, 60, SIDE)
    for rising in (light, -light, light[:, None], -light[:, None]):
        image, ground = (
            (on_uneven_ground(3, left) + rising).clip(0, 255).astype(np.uint8) for left in (24, SIDE)
        )
        assert statistics_of(image)[9] < 0.05
        assert reason_of(statistics_of(image), references) == ""
        assert reason_of(statistics_of(ground), references) == LESS_PART


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
        ((100, 40, 5, 0.1, 1, 1, 1.2, 0, 40, 0.6), ""),
        ((100, 4.9, 5, 0.1, 1, 1, 1.2, 0, 40, 0.6), NO_PART),
        ((12, 40, 5, 0.1, 1, 1, 1.2, 0, 40, 0.6), DARK),
        ((237, 40, 5, 0.1, 1, 1, 1.2, 0, 40, 0.6), BRIGHT),
        ((100, 40, 0.7, 0.1, 1, 1, 1.2, 0, 40, 0.6), OUT_OF_FOCUS),
        ((100, 40, 36, 0.1, 1, 1, 1.2, 0, 40, 0.6), NOISY),
        ((100, 40, 5, 0.26, 1, 1, 1.2, 0, 40, 0.6), LOST),
        ((100, 40, 5, 0.1, 6.1, 1, 1.2, 0, 40, 0.6), NOISY),
        ((100, 40, 5, 0.1, 1, 0.49, 1.2, 0, 40, 0.6), OUT_OF_FOCUS),
        ((100, 40, 5, 0.1, 1, 1, 0.59, 0, 40, 0.6), OUT_OF_FOCUS),
        ((100, 40, 5, 0.1, 1, 1, 0.61, 0, 40, 0.6), ""),
        ((100, 39, 5, 0.1, 1, 1, 2.01, 0, 40, 0.6), NO_PART),
        ((100, 41, 5, 0.1, 1, 1, 2.01, 0, 40, 0.6), ""),
        ((100, 39, 5, 0.1, 1, 1, 1.99, 0, 40, 0.6), ""),
        ((100, 40, 5, 0.1, 1, 1, 1.2, 0.41, 40, 0.6), SHIFTED),
        ((100, 40, 5, 0.1, 1, 1, 1.2, 0.39, 40, 0.6), ""),
        ((100, 40, 5, 0.1, 1, 1, 1.2, 0, 4.4, 0.6), COLOUR_LOST),
        ((100, 40, 5, 0.1, 1, 1, 1.2, 0, 4.6, 0.6), ""),
        ((100, 40, 5, 0.1, 1, 1, 1.2, 0, 40, 0.19), LESS_PART),
        ((100, 40, 5, 0.1, 1, 1, 1.2, 0, 40, 0.21), ""),
        ((100, 40, 5, 0.1, 1, 1, 1.2, 0, 40, 1.0), ""),
        ((100, 98.2, 5, 0.1, 1, 1, 1.2, 0, 40, 0.6), ""),
        ((100, 98.4, 5, 0.1, 1, 1, 1.2, 0, 40, 0.6), HARSH),
    ],
)
def test_each_bound_is_relative_to_the_references(found, reason):
    """Where light does not rise from one side, the levelled share is the share."""
    reference = with_levelled([100.0, 40, 5, 0.1, 1, 1, 1.2, -0.1, 40, 0.6])[None]
    assert reason_of(with_levelled(found), reference) == reason


def with_levelled(statistics):
    return np.array([*statistics, statistics[-1]], float)


def test_a_map_of_which_most_is_far_above_the_usual_has_a_reason():
    far = np.full((4, 4), 0.36, np.float32)
    assert reason_of_map(far, 0.1) == DIFFERENT
    assert reason_of_map(far, 0.11) == reason_of_map(far, None) == reason_of_map(far, 0.0) == ""
    far[:2] = 0.1  # half of it is usual: a large defect is not most of the picture
    assert reason_of_map(far, 0.1) == ""
    far[:2] = 0  # outside of the region of interest
    assert reason_of_map(far, 0.1) == DIFFERENT


def test_what_the_references_span_is_no_reason():
    wide = np.stack(
        [
            with_levelled([20.0, 10, 1, 0.0, 0, 0.8, 0.8, 0, 5, 0.2]),
            with_levelled([240, 80, 10, 0.6, 4, 1.6, 2.1, 0.8, 80, 0.8]),
        ]
    )
    narrow = with_levelled([100.0, 60, 5, 0.1, 1, 1, 1, 0, 60, 0.6])[None]
    low = (10, 5, 0.5, 0.7, 0, 0.45, 0.5, 1.1, 0.2, 0.1)
    for found in (low, (250, 90, 60, 0.0, 20, 2, 2.2, 0, 90, 1)):
        assert reason_of(with_levelled(found), wide) == ""
        assert reason_of(with_levelled(found), narrow) != ""


def test_a_black_reference_is_named_among_several_and_never_all():
    statistics = [statistics_of(part(seed)) for seed in range(3)]
    black = statistics_of(frame(0))
    assert implausible_references(np.stack([*statistics, black])) == {3: NO_PART}
    assert implausible_references(np.stack([black, statistics[0]])) == {0: NO_PART}
    assert implausible_references(np.stack(statistics)) == {}
    faint = (110 + 0.05 * part()).astype(np.uint8)  # next to what is lost, black, it has no contrast
    without = statistics_of(lost(faint, 1 / 3))
    assert implausible_references(np.stack([statistics_of(faint), without])) == {1: LOST}
    assert implausible_references(np.stack([without, statistics_of(faint)])) == {0: LOST}
    assert implausible_references(np.stack([black])) == {} == implausible_references(np.stack([black, black]))


def test_a_torn_or_blurred_reference_is_named_among_several_by_the_spread_of_the_others():
    good = [statistics_of(enlarged(seed)) for seed in range(3)]
    blurred, little = (statistics_of(gaussian_filter(enlarged(5), (0, by, by))) for by in (7, 5))
    shifted, static = statistics_of(torn(enlarged(5), 1 / 3)), statistics_of(noisy(enlarged(5), 100))
    assert implausible_references(np.stack([good[0], shifted])) == {1: SHIFTED}
    strong = statistics_of(enlarged(1, contrast=120))
    of_strong = statistics_of(gaussian_filter(enlarged(5, contrast=120), (0, 7, 7)))
    assert implausible_references(np.stack([of_strong, strong])) == {0: OUT_OF_FOCUS}
    for bad, reason in ((blurred, OUT_OF_FOCUS), (shifted, SHIFTED)):
        assert implausible_references(np.stack([bad, *good])) == {0: reason}
    assert reason_of(little, np.stack(good)) == ""  # a photograph may have a defect there
    assert implausible_references(np.stack([*good, little])) == {3: OUT_OF_FOCUS}
    assert implausible_references(np.stack([static, good[0]])) == {}  # either might be the odd one
