"""Which photographs an input stands for, reading them ahead, and copies of references."""

import numpy as np
import pytest
from PIL import Image

from data.inputs import find_images
from data.photographs import read_ahead
from data.variants import rotated, rotated_places, varied
from tests.support.photographs import draw, draw_parts
from utils.errors import DataError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """good/ with references and parts/ with photographs."""
    return draw_parts(tmp_path_factory.mktemp("place"))


def test_inputs_files_folders_and_patterns(place, tmp_path):
    def names(*inputs, **more):
        return [name for name, _ in find_images([str(item) for item in inputs], **more)]

    parts = place / "parts"
    assert names(parts) == ["2.png", "10.png", "line b/broken.png", "line b/x,1.png", "line b/deep/7.JPG"]
    assert names(parts / "*.png") == ["2.png", "10.png"]
    assert names(parts / "**/*.png") == ["2.png", "10.png", "line b/broken.png", "line b/x,1.png"]
    assert names(parts / "line*" / "deep") == ["line b/deep/7.JPG"]
    assert names(parts / "[0-9]*.*g") == ["2.png", "10.png"]
    assert names(parts, without=[parts / "line b"]) == ["2.png", "10.png"]
    assert names(parts / "2.png", parts / "line b/deep") == [f"{parts}/2.png", f"{parts}/line b/deep/7.JPG"]
    assert names(parts / "*.webp") == []
    assert names(parts / "notes.txt") == ["notes.txt"], "a file that is named is tried"
    with pytest.raises(DataError, match="nowhere"):
        names(tmp_path / "nowhere")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    draw(tmp_path / "a[1].png", 1)
    assert [name for name, _ in find_images([tmp_path / "a[1].png"])] == ["a[1].png"]


def test_links_that_go_round_end_and_hidden_folders_are_passed_over(tmp_path):
    draw(tmp_path / "in/a/1.png", 1)
    draw(tmp_path / "in/.hidden/2.png", 2)
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/self.png").symlink_to(tmp_path / "in/self.png")
    assert [name for name, _ in find_images([tmp_path / "in"])] == ["self.png", "a/1.png"]


def test_names_are_found_one_folder_at_a_time(tmp_path):
    for folder in ("a", "b"):
        draw(tmp_path / folder / "1.png", 1)
    found = find_images([tmp_path])
    assert next(found)[0] == "a/1.png"
    draw(tmp_path / "b" / "2.png", 2)
    assert [name for name, _ in found] == ["b/1.png", "b/2.png"]


def test_reading_ahead_keeps_the_order_and_holds_few(place):
    asked = []

    def files():
        for number in range(40):
            asked.append(number)
            yield str(number), place / ("parts/2.png" if number % 3 else "parts/line b/broken.png")

    reader = read_ahead(files(), 32, threads=3, ahead=4)
    first = next(reader)
    assert first.name == "0" and first.reason and len(asked) <= 6
    rest = list(reader)
    assert [item.name for item in rest] == [str(number) for number in range(1, 40)]
    assert all(bool(item.reason) == (int(item.name) % 3 == 0) for item in rest)


# Copies of the references -----------------------------------------------------------------------------------


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
