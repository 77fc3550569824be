"""Copies of the references: rotated with the places of their patches, and slightly varied."""

import numpy as np
from PIL import Image

from data.variants import rotated, rotated_places, varied


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


def test_varied_copies_differ_a_little_and_repeat():
    photo = Image.fromarray((np.indices((40, 40)).sum(0) * 3 % 255).astype(np.uint8)).convert("RGB")
    one, two = list(varied(photo, 3, 5)), list(varied(photo, 3, 5))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, two))
    assert not np.array_equal(np.asarray(one[0]), np.asarray(one[1]))
    assert not np.array_equal(np.asarray(one[0]), np.asarray(list(varied(photo, 1, 6))[0]))
