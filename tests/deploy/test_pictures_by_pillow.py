"""Boxes, heat maps and contours by NumPy and Pillow alone are those of OpenCV."""

import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from fdsl.inspection import regions
from fdsl.inspection.regions import find_boxes
from fdsl.report import drawing
from tests.support.photographs import texture
from utils.hot_regions import upsample

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

from deploy import numpy_boxes, pillow_pictures  # noqa: E402
from deploy.graph import Graph  # noqa: E402
from deploy.numpy_boxes import mask_of  # noqa: E402


def bumps(generator, grid):
    """A map (G,G) of a few soft bumps on noise."""
    rows, columns = np.mgrid[:grid, :grid]
    found = generator.random((grid, grid)) * generator.choice([0.01, 0.3])
    for _ in range(generator.integers(0, 7)):
        row, column = generator.random(2) * grid
        width = 1 + 4 * generator.random()
        found += generator.random() * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / width)
    return (found / max(1, found.max())).astype(np.float32)


@pytest.mark.parametrize("seed", range(40))
def test_boxes_are_those_of_opencv(seed):
    generator = np.random.default_rng(seed)
    patch_map = bumps(generator, int(generator.integers(4, 30)))
    height, width = generator.integers(1, 200, 2)
    level = None if seed % 4 == 0 else float(generator.random() * patch_map.max() * 1.1)
    large = upsample(patch_map, height, width)
    if seed % 3 == 0:
        large = np.round(large, 1)  # plateaus, and pixels that touch at corners alone
    given = [vars(box) for box in numpy_boxes.find_boxes(large, level)]
    assert given == [vars(box) for box in find_boxes(large, level)]


def test_a_map_without_variation_has_no_box():
    assert numpy_boxes.find_boxes(np.full((9, 9), 0.5, np.float32), 0.1) == []


def test_heat_maps_are_those_of_predict(exported):
    photo = Image.fromarray(texture(3, defect=True, height=200, width=260))
    graph = Graph(exported)
    result = graph.predict(photo, "photo")
    heights = upsample(result.patch_map, photo.height, photo.width)
    ours = pillow_pictures.draw(photo, replace(result, is_anomalous=False), graph.heat_scale, None)
    theirs = drawing.heat(np.asarray(photo), heights, graph.heat_scale)
    assert np.abs(np.asarray(ours, int) - theirs).max() <= 3 and np.ptp(theirs, axis=2).max() > 100
    for level in (None, float(np.quantile(heights, 0.9)), 2 * float(heights.max())):
        mask = mask_of(heights, level)
        drawn = pillow_pictures.draw(photo, replace(result, is_anomalous=True), graph.heat_scale, level)
        changed = np.abs(np.asarray(drawn, int) - np.asarray(ours)).max(axis=2) > 0
        grown = binary_dilation(mask, np.ones((7, 7), bool))
        assert mask.any() and not (changed & mask).any() and changed[grown & ~mask].mean() > 0.9
        assert not changed[~grown].any() and (regions.mask_of(heights, level) == mask).all()


def test_a_mask_grows_by_any_number_of_pixels_in_the_same_time():
    mask = np.zeros((300, 400), np.uint8)
    mask[0, 0] = mask[150, 200] = mask[299, 390:] = 255
    for pixels in (1, 3, 40):
        grown = np.asarray(pillow_pictures._grown(Image.fromarray(mask), pixels))
        assert set(np.unique(grown)) == {0, 255}
        assert ((grown > 0) == binary_dilation(mask, np.ones((3, 3)), pixels)).all()
    large, seconds = Image.new("L", (2000, 1500)), []
    for pixels in (1, 60):
        begun = time.perf_counter()
        pillow_pictures._grown(large, pixels)
        seconds.append(time.perf_counter() - begun)
    assert seconds[1] < 10 * seconds[0]
