"""Regions from maps: what scikit-image measures, in the photograph's own pixels, and the files that hold
them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from skimage.draw import ellipse

from fdsl.inspection.coco_file import write_coco
from fdsl.inspection.regions import find_regions, mask_of, region_mask, regions_of
from fdsl.prediction import Prediction
from fdsl.report import drawing
from models.features import ScoreMaps
from utils.errors import ConfigError, DataError
from utils.hot_regions import pixel_threshold_of, upsample


def tilted(angle, value=0.8):
    """A map with an ellipse of half-axes 30 and 10, its longer axis `angle` degrees counter-clockwise."""
    picture = np.zeros((120, 160), np.float32)
    rows, columns = ellipse(60, 80, 10, 30, rotation=math.radians(angle))
    picture[rows, columns] = value
    return picture


@pytest.mark.parametrize("angle", [0, 30, 90, 135, 179])
def test_an_ellipse_has_its_own_axes_and_orientation(angle):
    (region,) = find_regions(tilted(angle), 0.5)
    assert region.area == (tilted(angle) > 0).sum()
    assert region.centroid == pytest.approx((80.5, 60.5), abs=0.1)
    assert (region.major_axis, region.minor_axis) == pytest.approx((60, 20), rel=0.03)
    assert min(abs(region.orientation - angle), 180 - abs(region.orientation - angle)) < 1
    assert region.peak == pytest.approx(0.8) and region.mean == pytest.approx(0.8)


def test_regions_are_8_connected_reach_the_threshold_and_come_hottest_first():
    picture = np.zeros((40, 60), np.float32)
    picture[5:8, 5:8], picture[8, 8] = 0.5, 0.7  # touches by its corner alone
    picture[20:24, 30:40] = 0.9
    first, second = find_regions(picture, 0.5)
    assert (first.x, first.y, first.width, first.height, first.area) == (30, 20, 10, 4, 40)
    assert (second.x, second.y, second.width, second.height, second.area) == (5, 5, 4, 4, 10)
    assert second.peak == pytest.approx(0.7) and second.mean == pytest.approx(0.52)
    assert find_regions(picture, 0.95) == []
    assert [region.area for region in find_regions(picture, 0.5, min_area=11)] == [40]
    assert region_mask(picture, 0.5).sum() == 50 and region_mask(picture, 0.5, 11).sum() == 40
    assert not region_mask(picture, None).any()


def painted(region, shape):
    """The pixels inside a region's outline."""
    picture = Image.new("1", (8 * shape[1], 8 * shape[0]))
    ImageDraw.Draw(picture).polygon([(8 * x, 8 * y) for x, y in region.outline], fill=1)
    return np.asarray(picture)[4::8, 4::8]


def test_an_outline_encloses_its_region_at_any_place_and_size():
    rng = np.random.default_rng(0)
    for _ in range(20):
        picture = upsample(rng.random((6, 6), np.float32), *rng.integers(20, 200, 2))
        for region in find_regions(picture, 0.6):
            inside = painted(region, picture.shape)
            box = np.s_[region.y : region.y + region.height, region.x : region.x + region.width]
            assert inside[box].sum() == inside.sum()
            assert abs(int(inside.sum()) - region.area) <= 0.1 * region.area + 12
    for shape in ((1, 1), (1, 7), (7, 1)):
        (region,) = find_regions(np.ones(shape), 0.5)
        assert len(region.outline) >= 3 and painted(region, shape).all()


def test_the_pixel_threshold_gives_way_where_the_map_does_not_reach_it():
    picture = tilted(0, 0.8)
    assert pixel_threshold_of(picture, 0.5) == 0.5
    assert pixel_threshold_of(picture, None) == pixel_threshold_of(picture, 0.9) == pytest.approx(0.4)
    assert pixel_threshold_of(np.full((5, 5), 0.2), 0.9) is None


def test_a_map_below_its_threshold_has_the_region_of_its_maximum_alone():
    picture = np.zeros((40, 60), np.float32)
    picture[5:9, 5:15], picture[20:24, 30:40] = 0.7, 0.8
    for threshold, count in ((0.6, 2), (0.75, 1), (None, 2), (0.9, 1)):
        regions = regions_of(picture, threshold)
        assert len(regions) == count and regions[0].x == 30
        assert mask_of(picture, threshold).sum() == sum(region.area for region in regions)
    assert regions_of(picture, 0.9, 41) == [] and not mask_of(picture, 0.9, 41).any()


def prediction(values, **more):
    maps = ScoreMaps(values, np.float32(0.9))
    side = values.shape[0]
    return Prediction(0.9, 0.5, (4 * side, 3 * side), maps, values, **{"map_threshold": 0.5, **more})


@pytest.fixture
def spotted():
    values = np.zeros((20, 20), np.float32)
    values[5:9, 10:16], values[15, 2] = 0.9, 0.8
    return values


def test_a_mask_is_that_of_the_regions_and_another_threshold_can_be_asked_for(spotted):
    found = prediction(spotted)
    assert found.mask().shape == (60, 80) and found.mask().dtype == bool
    assert found.mask().sum() == sum(region.area for region in found.regions) and len(found.regions) == 2
    assert (found.mask(0.85) == (found.anomaly_map >= 0.85)).all()
    assert len(prediction(spotted, min_area=30).regions) == 1
    for wrong in ("0.5", math.nan, None.__class__):
        with pytest.raises(ConfigError, match="^threshold is"):
            found.mask(wrong)


def test_what_is_normal_or_shows_no_part_has_no_regions(spotted):
    normal = Prediction(0.1, 0.5, (80, 60), ScoreMaps(spotted, np.float32(0.1)), spotted, 0.5)
    for found in (normal, prediction(spotted, reason="no part in the picture")):
        assert found.regions == [] and found.pixel_threshold is None and not found.mask().any()
    assert normal.mask(0.5).any()


def test_a_prediction_says_what_it_is_in_two_lines(spotted, tmp_path):
    found = prediction(spotted, path=tmp_path / "7.png")
    first, second = repr(found).split("\n")
    assert str(tmp_path / "7.png") in first and "80 x 60 px" in first
    assert second == "  anomalous, score 0.9, threshold 0.5, highest map value 0.9"
    assert "from memory" in repr(prediction(spotted))
    assert "area=" in repr(found.regions) and "outline" not in repr(found.regions)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored == found.to_dict() and stored["image"] == str(tmp_path / "7.png")
    assert len(stored["regions"]) == 2 and stored["anomalous"] is True


def test_a_picture_is_the_photograph_beside_its_heat_map(spotted, tmp_path):
    photo = Image.new("RGB", (80, 60), (40, 90, 200))
    photo.save(tmp_path / "part.png")
    found = prediction(spotted, path=tmp_path / "part.png", opens=lambda: Image.open(tmp_path / "part.png"))
    picture = found.plot()
    height, width = drawing.panel_size(60, 80, drawing.INSPECTION_SIDE)
    assert picture.size == (2 * width + drawing.PANEL_GAP, height + drawing.CAPTION_HEIGHT)
    left, right = np.asarray(picture)[:height, :width], np.asarray(picture)[:height, -width:]
    assert (left == (40, 90, 200)).all()
    x, y = (int(one) for one in np.array([12.5 / 19 * (width - 1), 6.5 / 19 * (height - 1)]))
    assert np.ptp(right[y, x].astype(int)) > 100 and np.ptp(right[-1, -1].astype(int)) < 5
    for name in ("a.jpg", "a.PNG", "a.webp"):
        found.save(tmp_path / name)
        with Image.open(tmp_path / name) as written:
            assert written.size == picture.size
    memory = prediction(spotted)
    with pytest.raises(ConfigError, match="^photo is missing"):
        memory.plot()
    assert memory.plot(photo).size == memory.plot(np.asarray(photo)).size == picture.size
    with pytest.raises(ConfigError, match="^photo is 5 x 5 px"):
        memory.plot(Image.new("RGB", (5, 5)))
    with pytest.raises(DataError):
        memory.plot(7)
    with pytest.raises(ConfigError, match="^file is"):
        found.save(tmp_path / "a.txt")


def test_pycocotools_loads_what_is_written(spotted, tmp_path):
    rows = [
        {**prediction(spotted).to_dict(), "image": "a/1.png"},
        {**prediction(np.zeros((20, 20), np.float32)).to_dict(), "image": "2.png"},
        {**prediction(spotted[::-1].copy()).to_dict(), "image": "3.png"},
    ]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_coco(tmp_path / "new" / "regions.json", tmp_path / "scores.jsonl")
    coco = COCO(str(tmp_path / "new" / "regions.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [row["image"] for row in rows]
    assert len(coco.getAnnIds()) == 4 and coco.getAnnIds(imgIds=2) == []
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == ["defect"]
    for image, row in zip((1, 3), (rows[0], rows[2])):
        wanted = prediction(spotted if image == 1 else spotted[::-1].copy()).mask()
        union = np.zeros_like(wanted)
        for note, region in zip(coco.loadAnns(coco.getAnnIds(imgIds=image)), row["regions"]):
            own = coco.annToMask(note).astype(bool)
            assert note["area"] == region["area"] == pytest.approx(own.sum(), rel=0.1)
            assert note["score"] == region["peak"] and len(note["bbox"]) == 4
            union |= own
        both = coco_mask.iou(
            [coco_mask.encode(np.asfortranarray(union.astype(np.uint8)))],
            [coco_mask.encode(np.asfortranarray(wanted.astype(np.uint8)))],
            [0],
        )
        assert both[0][0] > 0.9


def test_a_score_that_nearly_reaches_the_threshold_reads_differently(spotted):
    near = replace(prediction(spotted), score=0.00010000012, threshold=0.00010000034)
    assert "score 0.0001000001, threshold 0.0001000003" in repr(near)
    assert "score 0.25, threshold 0.5" in repr(replace(near, score=0.25, threshold=0.5))
