"""The draw of references, and records that are left out."""

import random

import pytest

from data.records import Catalogue, Record, sample_references, sampling_key, with_masks, without_references
from tests.support.records import records
from utils.errors import DataError


def test_same_seed_draws_the_same_distinct_references_in_any_order():
    pool = records(30)
    drawn = sample_references(pool, 10, 14, "cup")
    assert len(set(drawn)) == 10 and set(drawn) <= set(pool)
    random.Random(0).shuffle(pool)
    assert sample_references(pool, 10, 14, "cup") == drawn
    assert sample_references(pool, 4, 14, "cup") == drawn[:4]
    assert sample_references(pool, 10, 15, "cup") != drawn


def test_draw_is_the_same_on_every_machine():
    drawn = [r.image_path for r in sample_references(records(30), 3, 14, "cup")]
    assert drawn == ["cup/train/good/15.png", "cup/train/good/11.png", "cup/train/good/17.png"]


def test_categories_draw_apart_from_each_other():
    drawn = {
        tuple(r.image_path.rsplit("/", 1)[1] for r in sample_references(records(50, c), 5, 1, c))
        for c in "abcd"
    }
    assert len(drawn) == 4


def test_draw_takes_normal_images_of_the_category_only():
    pool = records(3) + records(9, "plate") + [Record("cup/train/hole/0.png", "", "cup", "hole", True)]
    assert sorted(sample_references(pool, 3, 0, "cup"), key=lambda r: r.image_path) == records(3)
    assert sample_references(pool, 0, 0, "cup") == []
    with pytest.raises(DataError, match="--k-shot"):
        sample_references(pool, 4, 0, "cup")


def test_references_are_left_out_and_maskless_defects_can_be():
    pool = records(5)
    assert without_references(pool, pool[1:3]) == [pool[0], *pool[3:]]
    bare = Record("cup/hole/0.png", "", "cup", "hole", True)
    assert with_masks([*pool, bare]) == pool


def test_a_folder_draws_the_same_under_another_name(tmp_path):
    """Its draw is seeded by names and sizes of the good photographs; the published datasets' by the name."""
    keys = []
    for name in ("cups", "mugs"):
        files = [tmp_path / name / "good" / f"{number}.png" for number in range(3)]
        files[0].parent.mkdir(parents=True)
        for number, file in enumerate(files):
            file.write_bytes(b"x" * (number + 1))
        pool = [Record(f"{name}/good/{file.name}", "", name, "good", False) for file in files]
        catalogue = Catalogue(tmp_path, {name: pool}, {name: pool})
        keys.append(sampling_key("folder", catalogue, name))
        assert sampling_key("mvtec", catalogue, name) == name
    assert keys[0] == keys[1]
    (tmp_path / "mugs/good/1.png").write_bytes(b"longer")
    assert sampling_key("folder", catalogue, "mugs") != keys[1]
