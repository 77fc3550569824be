"""Boxes from maps: around what is hottest, apart from each other, inside the photograph."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from fdsl.inspection.regions import find_boxes
from utils.hot_regions import upsample


def spots(shape, *places):
    picture = np.zeros(shape, np.float32)
    for top, left, height, width, value in places:
        picture[top : top + height, left : left + width] = value
    return picture


def test_box_is_where_the_spot_is_hottest_first():
    boxes = find_boxes(spots((60, 100), (10, 20, 5, 8, 0.6), (40, 70, 9, 4, 0.9)))
    assert [(box.x, box.y, box.width, box.height, box.area) for box in boxes] == [
        (70, 40, 4, 9, 36),
        (20, 10, 8, 5, 40),
    ]
    assert boxes[0].peak == pytest.approx(0.9)


def test_a_level_decides_what_is_boxed():
    picture = spots((60, 100), (10, 20, 5, 8, 0.3), (40, 70, 9, 4, 0.9))
    assert len(find_boxes(picture)) == 1
    assert len(find_boxes(picture, 0.2)) == 2
    assert len(find_boxes(picture, 0.5)) == 1
    assert len(find_boxes(picture, 5.0)) == 1, "an anomalous photograph always shows where"


def test_a_map_below_the_level_has_its_hottest_region_alone():
    """Its score is the mean of each block's maximum, so a photograph may be anomalous though its mean map is
    not: the rest of that map is normal structure."""
    picture = spots((60, 100), (10, 20, 5, 8, 0.55), (40, 70, 9, 4, 0.6))
    assert len(find_boxes(picture, 0.5)) == 2 and [box.x for box in find_boxes(picture, 0.7)] == [70]


def test_boxes_of_which_one_holds_the_other_are_one():
    picture = np.zeros((80, 80), np.float32)
    picture[10:60, 10:14] = picture[56:60, 10:60] = 0.9  # an L, whose box holds
    picture[20:30, 40:50] = 0.6  # this
    (only,) = find_boxes(picture, 0.5)
    assert (only.x, only.y, only.width, only.height, only.area) == (10, 10, 50, 50, 4 * 46 + 4 * 50 + 100)
    picture[62:78, 62:78] = 0.6  # but not that
    assert len(find_boxes(picture, 0.5)) == 2
    picture[20:30, 40:50] = 1.0  # the hotter one may be the inner one
    first, second = find_boxes(picture, 0.5)
    assert (first.width, second.width) == (50, 16) and first.peak == pytest.approx(1.0)


def test_a_low_level_does_not_blow_the_box_up():
    rows, columns = np.mgrid[:80, :80]
    hill = np.exp(-((rows - 40) ** 2 + (columns - 40) ** 2) / 200).astype(np.float32)
    assert find_boxes(hill, 0.01)[0].width <= 2 * 12 + 1


def test_a_high_level_does_not_shrink_the_box():
    rows, columns = np.mgrid[:80, :80]
    hill = np.exp(-((rows - 40) ** 2 + (columns - 40) ** 2) / 200).astype(np.float32)
    low, high = find_boxes(hill, 0.3), find_boxes(hill, 0.99)
    assert low == high and low[0].width == low[0].height >= 2 * 11


@pytest.mark.parametrize("shape", [(320, 320), (900, 900), (90, 1400), (1400, 90), (1, 50), (50, 1)])
def test_maps_of_any_shape_and_memory_layout_have_boxes(shape):
    values = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    full = upsample(values, *shape)
    for layout in (full, np.asfortranarray(full), np.ascontiguousarray(full), full[::-1, ::-1]):
        boxes = find_boxes(layout, 0.6)
        assert boxes and all(
            0 <= box.x <= box.x + box.width <= shape[1] and 0 <= box.y <= box.y + box.height <= shape[0]
            for box in boxes
        )


def test_no_pixel_belongs_to_two_boxes():
    rows, columns = np.mgrid[:90, :160]
    hills = sum(
        height * np.exp(-((rows - 45) ** 2 + (columns - middle) ** 2) / 160)
        for height, middle in ((0.9, 50), (0.45, 85))
    ).astype(np.float32)
    first, second = find_boxes(hills, 0.4)
    assert first.x <= 50 <= first.x + first.width and second.x <= 85 <= second.x + second.width
    assert first.area + second.area <= ((hills >= 0.2).sum())
    assert first.x + first.width <= second.x + 3


def test_diagonal_pixels_are_one_region_and_flat_maps_have_none():
    assert len(find_boxes(np.eye(40, dtype=np.float32))) == 1
    assert find_boxes(np.full((5, 5), 0.7, np.float32)) == []


def test_specks_are_left_out_but_never_the_hottest():
    picture = spots((300, 300), (0, 0, 2, 2, 0.8), (100, 100, 20, 20, 0.7))
    assert [box.area for box in find_boxes(picture)] == [4, 400]
    picture[0, 0] = picture[0, 1] = picture[1, 0] = picture[1, 1] = 0.6
    assert [box.area for box in find_boxes(picture)] == [400]


@given(
    strategies.integers(2, 9),
    strategies.integers(3, 70),
    strategies.integers(3, 70),
    strategies.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_boxes_stay_in_the_photograph_and_hold_its_maximum(grid, height, width, seed):
    picture = upsample(np.random.default_rng(seed).random((grid, grid), np.float32), height, width)
    boxes = find_boxes(picture, 0.4)
    for box in boxes:
        assert 0 <= box.x < box.x + box.width <= width and 0 <= box.y < box.y + box.height <= height
        assert 0 < box.area <= box.width * box.height
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    first = boxes[0]
    assert first.peak == picture.max()
    assert first.y <= row < first.y + first.height and first.x <= column < first.x + first.width
