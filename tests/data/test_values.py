"""Photographs of more than 8 bits, and normalised tensors: one range for all of them, found from the
references."""

import cv2
import numpy as np
import pytest
import torch
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image

from data.images import open_image, open_wide
from data.photographs import as_photograph
from data.values import Normalisation, doubts, doubts_of, find_normalisation, find_range, range_of, step_of
from utils.errors import DataError
from utils.limits import GreyRange


def picture(seed=1, side=32):
    """(side,side) float64 in [0,1], with both ends in it."""
    values = np.random.default_rng(seed).random((side, side))
    values[0, :2] = 0, 1
    return values


def write(path, values):
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    "low, high, whole, expected",
    [
        (0, 1000, True, (0, 1023)),
        (3, 4000, True, (0, 4095)),
        (0, 16000, True, (0, 16383)),
        (0, 65535, True, (0, 65535)),
        (0, 200, True, (0, 255)),
        (0.0, 1.0, False, (0, 1)),
        (0.0, 1.02, False, (0, 1)),
        (0.0, 250.0, False, (0, 255)),
        (29000, 31000, True, (28800, 31200)),
        (-1.0, 1.0, False, (-1, 1)),
        (-0.8, 0.7, False, (-1, 1)),
        (-0.5, 0.45, False, (-0.5, 0.5)),
        (-2.1, 2.6, False, (-2.57, 3.07)),
        (-0.02, 0.02, False, (-0.024, 0.024)),
        (-0.01, 1.0, False, (-0.111, 1.101)),
        (-20000, 31000, True, (-32768, 32767)),
        (-1900, 1800, True, (-2048, 2047)),
        (-3, 4000, True, (-403.3, 4400.3)),
        (-7, -5, True, (-7.2, -4.8)),
        (0, 10**6, True, (-100000, 1100000)),
        (7, 7, True, (6, 8)),
    ],
)
def test_the_range_is_a_full_depth_or_the_band_itself(low, high, whole, expected):
    found = range_of(float(low), float(high), whole)
    assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize(
    "top, kind", [(1023, np.uint16), (4095, np.uint16), (16383, np.int32), (1.0, np.float32)]
)
def test_every_depth_looks_as_eight_bits_do(tmp_path, top, kind):
    eight = write(tmp_path / "8.png", np.rint(picture() * 255).astype(np.uint8))
    wide = write(tmp_path / "wide.tif", (picture() * top).astype(kind))
    grey = find_range([wide, eight])
    shown = np.asarray(open_image(wide, grey=grey), int)
    assert abs(shown - np.asarray(open_image(eight), int)).max() <= 1


@pytest.mark.parametrize(
    "low, high, kind",
    [(-1, 1, np.float32), (-0.5, 0.5, np.float32), (-32768, 32767, np.int32), (-2048, 2047, np.int32)],
)
def test_values_about_zero_look_as_eight_bits_do(tmp_path, low, high, kind):
    eight = write(tmp_path / "8.png", np.rint(picture() * 255).astype(np.uint8))
    signed = write(tmp_path / "signed.tif", (picture() * (high - low) + low).astype(kind))
    shown = np.asarray(open_image(signed, grey=find_range([signed])), int)
    assert abs(shown - np.asarray(open_image(eight), int)).max() <= 1


def eight_bits(seed, low=27, high=250):
    """(32,32) uint8 with both ends in it."""
    levels = np.random.default_rng(seed).integers(low, high + 1, (32, 32))
    levels[0, :2] = low, high
    return levels.astype(np.uint8)


@pytest.mark.parametrize(
    "low, high, shift, scale",
    [
        (27, 250, 127.5, 1 / 127.5),
        (60, 190, 127.5, 1 / 127.5),  # a narrow band is not widened: 8 bits are not
        (60, 190, 127.5, 1 / 255),
        (60, 190, 0, 1 / 256),
        (100, 140, 0, 1 / 255),
    ],
)
def test_floats_that_were_eight_bits_look_as_these_do(tmp_path, low, high, shift, scale):
    photographs = [eight_bits(seed, low, high) for seed in range(3)]
    scaled = [((levels - np.float32(shift)) * np.float32(scale)).astype(np.float32) for levels in photographs]
    files = [write(tmp_path / f"{number}.tif", values) for number, values in enumerate(scaled)]
    grey = find_range(files[:1])
    for file, levels in zip(files, photographs):
        assert np.array_equal(np.asarray(open_image(file, grey=grey))[..., 0], levels)


def test_floats_by_one_mean_and_deviation_keep_their_contrast_and_say_their_range(tmp_path, caplog):
    """Where black lies is lost with the mean: all photographs are as much lighter or darker."""
    caplog.set_level("INFO", "fdsl")
    photographs = [eight_bits(seed) for seed in range(3)]
    files = [
        write(tmp_path / f"{number}.tif", ((levels - 123.13) / 49.8).astype(np.float32))
        for number, levels in enumerate(photographs)
    ]
    grey = find_range(files[:2])
    changes = [
        np.asarray(open_image(file, grey=grey), int)[..., 0] - levels
        for file, levels in zip(files, photographs)
    ]
    assert np.unique(changes).tolist() == [-11]  # of the 32 levels that are missing, 16 are left below
    assert "in steps of 0.0200803 as 8 bits have them; -2.25161 becomes black, 2.86888 white" in caplog.text
    assert "mean 0" not in caplog.text and doubts_of(files, grey) == []


@pytest.mark.parametrize("low, high, black", [(27, 250, 11), (5, 151, -11), (0, 255, 0), (130, 190, 33)])
def test_where_nothing_says_which_level_is_black_it_lies_near_the_lowest_value(low, high, black):
    """In the middle of what is missing, for images of little contrast; black: of the 8 bits they were."""
    found = range_of((low - 81.7) / 30, (high - 81.7) / 30, False, 1 / 30)
    assert found.low == pytest.approx((black - 81.7) / 30)
    assert found.high - found.low == pytest.approx(255 / 30)


def test_images_that_were_standardised_one_by_one_are_named(tmp_path, caplog):
    def standardised(levels):
        return ((levels - levels.mean()) / levels.std()).astype(np.float32)

    files = [
        write(tmp_path / f"{number}.tif", standardised(eight_bits(number, 20 + 30 * number).astype(float)))
        for number in range(3)
    ]
    grey = find_range(files[:2])
    assert "a reference has mean 0 and deviation 1: its light and contrast are lost" in caplog.text
    (found,) = doubts_of(files[2:], grey)
    assert found.startswith("2.tif: it has mean 0 and deviation 1")


@pytest.mark.parametrize(
    "values",
    [
        np.arange(20) / 255,  # few levels
        np.arange(300) / 255,
        np.sort(np.random.default_rng(0).random(200)),
        np.array([0.0, 1.0]),
        np.zeros(1),
    ],
)
def test_other_values_have_no_step(values):
    assert step_of(values) == 0


def test_sixteen_bits_with_a_sign_are_read(tmp_path):
    values = np.rint(picture() * 65535 - 32768).astype(np.int16)
    cv2.imwrite(str(tmp_path / "a.tif"), values)
    grey = find_range([tmp_path / "a.tif"])
    assert grey == GreyRange(-32768, 32767)
    shown = np.asarray(open_image(tmp_path / "a.tif", grey=grey), int)[..., 0]
    assert abs(shown - picture() * 255).max() <= 1


def test_references_of_different_scales_are_named(tmp_path, caplog):
    one = write(tmp_path / "one.tif", picture(1).astype(np.float32))
    other = write(tmp_path / "other.tif", (picture(2) * 255).astype(np.float32))
    find_range([one])
    assert "different scales" not in caplog.text
    find_range([one, other])
    assert "of different scales: up to 1 in one and 255 in another" in caplog.text


def test_a_pixel_above_one_does_not_change_the_others(tmp_path):
    plain = write(tmp_path / "a.tif", picture().astype(np.float32))
    values = picture().astype(np.float32)
    values[5, 5] = 1.02
    bright = write(tmp_path / "b.tif", values)
    grey = find_range([plain])
    one, two = (np.asarray(open_image(file, grey=grey), int) for file in (plain, bright))
    assert (one != two).any(2).sum() == 1


def test_eight_bits_have_no_range_and_are_as_they_were(tmp_path):
    file = write(tmp_path / "8.png", np.rint(picture() * 200).astype(np.uint8))
    assert find_range([file]) is None and open_wide(file) is None
    for grey in (None, GreyRange(0, 4095)):
        assert np.array_equal(np.asarray(open_image(file, grey=grey))[..., 0], np.asarray(Image.open(file)))


def test_doubts_are_said(tmp_path):
    grey = GreyRange(0, 4095)
    fine = write(tmp_path / "fine.tif", (picture() * 4095).astype(np.uint16))
    dark = write(tmp_path / "dark.tif", (picture() * 60).astype(np.uint16))
    over = write(tmp_path / "over.tif", (picture() * 9000).astype(np.uint16))
    assert doubts(np.asarray(Image.open(fine)), grey) == ""
    found = doubts_of([fine, dark, over], grey)
    assert len(found) == 2
    assert "dark.tif: only" in found[0] and "grey levels" in found[0]
    assert "over.tif:" in found[1] and "outside 0 to 4095" in found[1]
    (own,) = doubts_of([dark, write(tmp_path / "8.png", np.zeros((9, 9), np.uint8))], None)
    assert own.startswith("dark.tif: it has more than 8 bits and the references have not")


def test_a_large_picture_is_scaled_in_strips(tmp_path, monkeypatch):
    file = write(tmp_path / "a.tif", (picture(side=64) * 4095).astype(np.uint16))
    whole = np.asarray(open_image(file, grey=GreyRange(0, 4095)))
    monkeypatch.setattr("data.images.STRIP", 100)
    assert np.array_equal(np.asarray(open_image(file, grey=GreyRange(0, 4095))), whole)


def test_numbers_that_are_none_are_refused(tmp_path):
    values = picture().astype(np.float32)
    values[3, 3] = np.nan
    file = write(tmp_path / "a.tif", values)
    for grey in (None, GreyRange(0, 1)):
        with pytest.raises(DataError, match="not finite"):
            open_image(file, grey=grey)


@pytest.mark.parametrize("text", ["", "1", "2:1", "1:1", "a:b", "0:inf", "nan:1", "1:2:3"])
def test_a_text_that_is_no_range_is_none(text):
    assert GreyRange.of(text) is None


def test_a_range_that_is_given_brings_the_eight_bits_back(tmp_path):
    levels = eight_bits(1)
    file = write(tmp_path / "a.tif", ((levels - 123.13) / 49.8).astype(np.float32))
    grey = find_range([file], chosen=f"{-123.13 / 49.8}:{(255 - 123.13) / 49.8}")
    assert np.array_equal(np.asarray(open_image(file, grey=grey))[..., 0], levels)
    assert find_range([write(tmp_path / "8.png", levels)], chosen="0:1") is None


def test_the_order_of_integers_and_floats_does_not_matter(tmp_path):
    whole = write(tmp_path / "whole.tif", (4095 * picture()).astype(np.uint16))
    steps = write(tmp_path / "steps.tif", (np.rint(255 * picture(2)) / 255).astype(np.float32))
    assert find_range([whole, steps]) == find_range([steps, whole]) == GreyRange(0, 4095)


USUAL = [
    ((0.5,) * 3, (0.5,) * 3),
    ((0.5,) * 3, (1.0,) * 3),
    (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
    (IMAGENET_MEAN, IMAGENET_STD),
]


def pixels(seed, low=60, high=200):
    """(3,16,16) uint8, of a narrow band of grey levels, which suit several normalisations."""
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high, (3, 16, 16), np.uint8))


def normalised(image, mean, std):
    return (image.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.parametrize("mean, std", USUAL)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_eight_bits_come_back_to_the_bit(mean, std, kind):
    found = find_normalisation([normalised(pixels(seed), mean, std).to(kind) for seed in range(2)])
    assert found == Normalisation(mean, std)
    other = pixels(7, 0, 256)
    again = as_photograph(found.plain(normalised(other, mean, std).to(kind)))
    assert np.array_equal(np.asarray(again), other.permute(1, 2, 0).numpy())


def test_where_no_levels_tell_the_narrowest_that_holds_the_values_is_taken():
    generator = torch.Generator().manual_seed(0)
    images = [normalised(255 * torch.rand((3, 16, 16), generator=generator), *USUAL[3]) for _ in range(2)]
    assert find_normalisation(images) == Normalisation(*USUAL[3])
    assert find_normalisation([0.1 * one for one in images]) == Normalisation(*USUAL[1])


def test_what_is_not_normalised_is_as_it_was():
    plain = pixels(1).float() / 255
    assert find_normalisation([plain, pixels(2), "a.png", np.zeros((4, 4, 3), np.uint8)]) is None
    assert find_normalisation([255 * plain]) is None
    found = Normalisation(*USUAL[3])
    for image in ("a.png", pixels(1), None):
        assert found.plain(image) is image


def test_another_normalisation_than_the_references_is_refused():
    found = Normalisation(*USUAL[0])
    with pytest.raises(DataError, match="^images\\[3\\] has values that the references' normalisation does"):
        found.plain(normalised(pixels(1, 0, 255), *USUAL[3]), "images[3]")
    assert torch.equal(found.plain(torch.full((3, 4, 4), -1.0001)), torch.zeros(3, 4, 4))
