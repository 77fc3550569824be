"""Copies of the references: rotated with the places of their patches, and slightly varied."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.variants import rotated, rotated_inside, rotated_places, varied
from utils.tile_layout import tiles_for


def test_rotated_copies_and_where_their_patches_lie():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    quarter = list(rotated(photo, 4))
    assert np.array_equal(np.asarray(quarter[0]), np.asarray(photo))
    assert np.array_equal(np.asarray(quarter[1]), np.rot90(np.asarray(photo)))
    places = rotated_places((32, 32), 4, 4, None)
    rows_, columns = np.divmod(np.arange(16), 4)
    assert np.allclose(places[0], np.stack([rows_, columns], 1))
    grid = np.arange(16).reshape(4, 4)
    assert np.allclose(places[1] @ [4, 1], np.rot90(grid).ravel(), atol=1e-5)
    wide = rotated_places((80, 40), 8, 5, None)
    assert wide.min() >= -0.51 and wide.max() <= 4.51


def test_a_patch_is_inside_where_its_centre_shows_the_photograph():
    white = Image.new("RGB", (90, 60), "white")
    framed = Image.new("RGB", (90, 60))
    framed.paste(white.resize((88, 58)), (1, 1))  # a black edge, which repeats outside
    inside = rotated_inside((90, 60), 8, 30, None)
    assert inside.shape == (8, 900) and inside[0].all() and inside[4].all()
    for copy, mask in zip(rotated(framed, 8), inside):
        centres = np.asarray(copy)[1::2, 1::3, 0].ravel() > 127
        assert (centres == mask).mean() > 0.93  # but for patches on the edge itself
    assert 0.6 < inside[1].mean() < 0.9 and inside[2].mean() == 2 / 3
    layout = tiles_for([(90, 60)], 2, 5, 6)
    tiles = rotated_inside((90, 60), 8, 5, layout)
    assert tiles.shape == (8, len(layout) * 25) and tiles[0].all() and not tiles[1].all()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(40, 200), st.integers(40, 200)),
    count=st.integers(2, 12),
    grid=st.integers(3, 16),
)
def test_patches_more_than_half_outside_are_not_counted_and_all_others_are(size, count, grid):
    """The part of each patch that shows the photograph, from a white one with black around it."""
    inside = rotated_inside(size, count, grid, None)
    for step in range(count):
        middle = (size[0] - 1) / 2, (size[1] - 1) / 2
        matrix = cv2.getRotationMatrix2D(middle, 360 * step / count, 1)
        shown = cv2.warpAffine(np.ones(size[::-1], np.float32), matrix, size, borderValue=0)
        fine = cv2.resize(shown, (32 * grid, 32 * grid))
        share = fine.reshape(grid, 32, grid, 32).mean((1, 3)).ravel()
        clear = abs(share - 0.5) > 0.06  # by so much the resized edge may lie elsewhere
        assert np.array_equal(inside[step][clear], share[clear] > 0.5)


def test_varied_copies_differ_a_little_and_repeat():
    photo = Image.fromarray((np.indices((40, 40)).sum(0) * 3 % 255).astype(np.uint8)).convert("RGB")
    one, two = list(varied(photo, 3)), list(varied(photo.copy(), 3))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, two))
    assert not np.array_equal(np.asarray(one[0]), np.asarray(one[1]))


def test_each_photograph_is_varied_in_its_own_way():
    """Seen at the corner of a cross, which no light moves."""
    cross = np.zeros((40, 40), np.uint8)
    cross[:20, :20] = cross[20:, 20:] = 200
    photo, other = Image.fromarray(cross).convert("RGB"), Image.fromarray(cross | 1).convert("RGB")
    masks = [np.asarray(next(varied(one, 1)))[..., 0] > 100 for one in (photo, other)]
    assert 10 < (masks[0] != masks[1]).sum()
