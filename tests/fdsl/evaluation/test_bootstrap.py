"""Metrics with the test images resampled, beside the exact ones of images that are there so many times."""

import numpy as np
import pytest

from fdsl.evaluation.bootstrap import Counts, bootstrap_weights, counts_of_images, counts_of_pixels, interval
from fdsl.metrics.exact import PixelMetrics, image_metrics
from fdsl.scoring import upsample_maps


@pytest.fixture(scope="module")
def images():
    """Maps (n,12,12) and masks (60,60), every second with two regions that are a little brighter."""
    noise = np.random.default_rng(0)
    masks, maps = np.zeros((16, 60, 60), bool), noise.normal(0.3, 0.1, (16, 12, 12)).astype(np.float32)
    for index in range(1, 16, 2):
        row, column = noise.integers(0, 4, 2)
        for place in ((row, column), (row + 5, column + 6)):
            masks[index][5 * place[0] : 5 * place[0] + 9, 5 * place[1] : 5 * place[1] + 13] = True
            maps[index][place[0] : place[0] + 2, place[1] : place[1] + 3] += noise.uniform(0, 0.4)
    return maps, masks


def exactly(maps, masks, times):
    pixels = PixelMetrics()
    for single, mask, often in zip(upsample_maps(maps, 60), masks, times):
        for _ in range(int(often)):
            pixels.update(single, mask)
    return pixels.compute()


def test_resampled_pixels_are_those_of_images_that_are_there_so_often(images):
    maps, masks = images
    weights = bootstrap_weights(masks.any((1, 2)), 3, samples=5)
    found = counts_of_pixels(maps, masks).metrics(weights)
    for number, times in enumerate(weights):
        exact = exactly(maps, masks, times)
        for name, tolerance in (("auroc", 2e-4), ("pro", 2e-3), ("f1", 4e-3), ("ap", 8e-3)):
            true = exact["aupro" if name == "pro" else f"{name}_px"]
            assert found[name][number] == pytest.approx(true, abs=tolerance), name


def test_image_scores_are_exact_also_where_some_are_equal():
    noise = np.random.default_rng(1)
    labels = np.arange(30) % 3 == 0
    scores = np.round(noise.normal(labels * 0.5, 1), 1)
    weights = bootstrap_weights(labels, 5, samples=4)
    found = counts_of_images(scores, labels).metrics(weights)
    for number, times in enumerate(weights.astype(int)):
        exact = image_metrics(np.repeat(scores, times), np.repeat(labels, times))
        assert {name: part[number] for name, part in found.items()} == pytest.approx(
            {name: exact[f"{name}_sp"] for name in ("auroc", "f1", "ap")}
        )


def test_good_and_defective_images_are_drawn_apart():
    labels = np.arange(9) < 2
    weights = bootstrap_weights(labels, 0)
    assert (weights[:, labels].sum(1) == 2).all() and (weights[:, ~labels].sum(1) == 7).all()
    assert np.array_equal(weights, bootstrap_weights(labels, 0)) and weights.std(0).min() > 0.5


def test_paired_drawings_hold_the_difference_of_two_runs_tighter(images):
    maps, masks = images
    weights = bootstrap_weights(masks.any((1, 2)), 3)
    other = maps + np.random.default_rng(5).normal(0, 0.02, maps.shape).astype(np.float32)
    one, two = (counts_of_pixels(part, masks).metrics(weights)["ap"] for part in (maps, other))
    paired, apart = interval(one - two), interval(one - np.roll(two, 1))
    assert paired[0] < 0.02 and 3 * (paired[1] - paired[0]) < apart[1] - apart[0]


def test_no_regions_no_pro():
    assert "pro" not in Counts(np.ones((2, 3)), np.ones((2, 3))).metrics(np.ones((1, 2)))
