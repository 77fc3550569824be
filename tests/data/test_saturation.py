"""How much of a region saturates, as MVTec LOCO AD's defects_config.json says it."""

import json

import numpy as np
import pytest
from PIL import Image

from data.masks import Saturations
from data.records import Record
from utils.errors import DataError

ENTRIES = [
    {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 0.4, "relative_saturation": True},
    {"defect_name": "long", "pixel_value": 254, "saturation_threshold": 30, "relative_saturation": False},
]
RECORDS = [
    Record("box/test/good/0.png", "", "box", "good", False),
    Record("box/test/logical_anomalies/0.png", "box/ground_truth/logical_anomalies/0", "box", "x", True),
]


def mask(file, value, area):
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((20, 24), np.uint8)
    values.flat[:area] = value
    Image.fromarray(values).save(file)


def place(root, entries):
    (root / "box").mkdir(exist_ok=True)
    (root / "box/defects_config.json").write_text(json.dumps(entries))
    return root


def test_each_mask_is_a_region_with_its_own_saturation(tmp_path):
    masks = place(tmp_path, ENTRIES) / "box/ground_truth/logical_anomalies/0"
    mask(masks / "000.png", 255, 64)  # 0.4 * 64 = 25.6: in whole pixels
    mask(masks / "001.png", 254, 100)
    mask(masks / "002.png", 254, 20)  # smaller than its saturation
    found = Saturations.of(tmp_path, RECORDS).regions(masks)
    assert [(int(region.mask.sum()), region.share) for region in found] == [
        (64, 25 / 64),
        (100, 0.3),
        (20, 1.0),
    ]
    assert Saturations.of(tmp_path, RECORDS).regions(masks / "001.png")[0].share == 0.3


def test_without_a_file_that_says_it_nothing_saturates(tmp_path):
    (tmp_path / "box/ground_truth").mkdir(parents=True)
    assert Saturations.of(tmp_path, RECORDS) is None
    assert Saturations.of(place(tmp_path, []), RECORDS) is None
    assert Saturations.of(place(tmp_path, ENTRIES), RECORDS[:1]) is None


@pytest.mark.parametrize(
    "entries",
    [
        {"a": 1},
        ["a"],
        [{"pixel_value": 255, "saturation_threshold": 0.4}],
        [{"pixel_value": 0, "saturation_threshold": 0.4, "relative_saturation": True}],
        [{"pixel_value": 255, "saturation_threshold": 0, "relative_saturation": True}],
        [{"pixel_value": 255, "saturation_threshold": "1", "relative_saturation": True}],
        None,
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, entries):
    with pytest.raises(DataError, match="box/defects_config.json: is not a list of entries"):
        Saturations.of(place(tmp_path, entries), RECORDS)


def test_a_value_that_the_file_does_not_name_is_refused(tmp_path):
    mask(place(tmp_path, ENTRIES) / "box/0.png", 7, 9)
    with pytest.raises(DataError, match=r"box/0.png: its value 7 is not in .*defects_config.json") as caught:
        Saturations.of(tmp_path, RECORDS).regions(tmp_path / "box/0.png")
    assert "\n" not in str(caught.value)
