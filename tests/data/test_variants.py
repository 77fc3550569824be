"""Copies of the references: rotated with the places of their patches, and slightly varied."""

import numpy as np
from PIL import Image

from data.variants import rotated, rotated_inside, rotated_places, varied
from utils.tile_layout import tiles_for


def test_rotated_copies_and_where_their_patches_lie():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    quarter = list(rotated(photo, 4))
    assert np.array_equal(np.asarray(quarter[0]), np.asarray(photo))
    assert np.array_equal(np.asarray(quarter[1]), np.rot90(np.asarray(photo)))
    places = rotated_places((32, 32), 4, 4)
    rows_, columns = np.divmod(np.arange(16), 4)
    assert np.allclose(places[0], np.stack([rows_, columns], 1))
    grid = np.arange(16).reshape(4, 4)
    assert np.allclose(places[1] @ [4, 1], np.rot90(grid).ravel(), atol=1e-5)
    wide = rotated_places((80, 40), 8, 5)
    assert wide.min() >= -0.51 and wide.max() <= 4.51


def test_a_patch_is_inside_where_its_centre_shows_the_photograph():
    white = Image.new("RGB", (90, 60), "white")
    framed = Image.new("RGB", (90, 60))
    framed.paste(white.resize((88, 58)), (1, 1))  # a black edge, which repeats outside
    inside = rotated_inside((90, 60), 8, 30)
    assert inside.shape == (8, 900) and inside[0].all() and inside[4].all()
    for copy, mask in zip(rotated(framed, 8), inside):
        centres = np.asarray(copy)[1::2, 1::3, 0].ravel() > 127
        assert (centres == mask).mean() > 0.93  # but for patches on the edge itself
    assert 0.6 < inside[1].mean() < 0.9 and inside[2].mean() == 2 / 3
    layout = tiles_for([(90, 60)], 2, 5, 6)
    tiles = rotated_inside((90, 60), 8, 5, layout)
    assert tiles.shape == (8, len(layout) * 25) and tiles[0].all() and not tiles[1].all()


def test_varied_copies_differ_a_little_and_repeat():
    photo = Image.fromarray((np.indices((40, 40)).sum(0) * 3 % 255).astype(np.uint8)).convert("RGB")
    one, two = list(varied(photo, 3, 5)), list(varied(photo, 3, 5))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, two))
    assert not np.array_equal(np.asarray(one[0]), np.asarray(one[1]))
    assert not np.array_equal(np.asarray(one[0]), np.asarray(list(varied(photo, 1, 6))[0]))
