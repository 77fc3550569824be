"""Pictures: one heat scale per category, the photo's own aspect, outlines where they belong, safe file
names."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fdsl.report import drawing
from fdsl.report.contact_sheet import ranked_choice
from fdsl.report.drawing import PREDICTION_COLOUR, TRUTH_COLOUR, colour_scale, overlay, panels
from fdsl.report.pictures import picture_names, safe_name, verdict, write_image, write_pictures
from fdsl.report.prediction_report import picture_name
from tests.support.make_fake_run import category_view, photo
from utils.hot_regions import upsample


def near(picture, colour, distance=60):
    return np.abs(picture.astype(int) - colour).sum(axis=2) < distance


@pytest.mark.parametrize("grid, size", [(37, (240, 240)), (20, (300, 517)), (5, (3, 4)), (1, (7, 9))])
def test_upsampling_is_bilinear_with_aligned_corners(grid, size):
    small = np.random.default_rng(grid).random((grid, grid)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None], size=size, mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(upsample(small, *size), expected[0, 0].numpy(), atol=1e-5)


def glow(view, index, scale):
    """How much redder than blue the heat map gets: the dimmed photo below it is grey."""
    heat = panels(view.read_photo(index), view.maps[index], None, None, scale)[2].astype(int)
    return (heat[..., 0] - heat[..., 2]).max()


def test_good_parts_stay_dark_in_a_category_with_strong_defects():
    view = category_view("plate", 8, 8, (120, 120))
    scale = colour_scale(view.maps, view.labels, view.map_threshold)
    normal = view.maps[~view.labels]
    assert scale == pytest.approx((np.median(normal.max((1, 2))), view.map_threshold))
    for index in np.flatnonzero(~view.labels):
        assert glow(view, index, scale) < 40
        own = view.maps[index]
        assert glow(view, index, (own.min(), own.max())) > 150, "what scaling each image by itself would show"
    assert glow(view, view.maps.max(axis=(1, 2)).argmax(), scale) > 150


def test_the_same_map_value_has_the_same_colour_in_every_image():
    grey = np.full((400, 400, 3), 120, np.uint8)
    weak, strong = np.full((9, 9), 0.3, np.float32), np.full((9, 9), 0.3, np.float32)
    weak[8, 8], strong[8, 8] = 0.31, 1.0
    scale = colour_scale(np.stack([weak, strong]), np.array([False, True]))
    first, second = (panels(grey, anomaly_map, None, None, scale)[2] for anomaly_map in (weak, strong))
    np.testing.assert_array_equal(first[:300, :300], second[:300, :300])
    assert np.ptp(second[-1, -1]) > 150
    assert np.ptp(first[-1, -1]) < 10


def test_the_scale_holds_the_threshold_and_never_stretches_noise():
    noise = np.random.default_rng(0).uniform(0.1, 0.11, (9, 20, 20)).astype(np.float32)
    labels = np.arange(9) == 0
    low, high = colour_scale(noise, labels)
    assert high - low == pytest.approx(drawing.MIN_SCALE_SPAN) and 0.1 <= low <= 0.11
    noise[0, 0, 0] = 0.9  # one tiny defect, rarer than the percentile
    assert colour_scale(noise, labels, 0.8) == pytest.approx((low, 0.8))
    share = np.quantile(noise[1:], 0.99)
    assert colour_scale(noise, labels, share + 1e-5) == pytest.approx((share, share + 1e-5))
    assert colour_scale(noise, labels, 0.108) == pytest.approx((np.median(noise), 0.108))
    assert colour_scale(noise, labels, 0.09) == pytest.approx((0.04, 0.09))


@pytest.mark.parametrize("shade", [0, 20, 128, 255])
def test_heat_is_transparent_below_its_scale_and_as_opaque_as_it_gets_from_the_threshold_on(shade):
    picture = np.full((9, 90, 3), shade, np.uint8)
    values = np.tile(np.linspace(0, 1, 90, dtype=np.float32), (9, 1))
    shown = drawing.heat(picture, values, (0.3, 0.6))
    colourful = np.ptp(shown.astype(int), axis=2)[0]
    assert (colourful[values[0] < 0.3] == 0).all(), "what normal images reach is as grey as the photograph"
    assert (np.diff(colourful[(values[0] > 0.32) & (values[0] < 0.58)]) >= 0).all()
    assert (colourful[values[0] > 0.6] > 140).all(), "on black and on white"


@pytest.mark.parametrize("shape", [(600, 800), (800, 300), (100, 100), (1, 1), (3000, 2), (17, 2000)])
def test_panels_keep_the_aspect_and_the_size_limit(shape):
    parts = panels(np.zeros((*shape, 3), np.uint8), np.zeros((5, 5), np.float32), None, 0.5, (0, 1))
    height, width, _ = parts[0].shape
    assert {part.shape for part in parts} == {(height, width, 3)} and max(height, width) <= drawing.PANEL_SIDE
    if max(shape) / min(shape) < 8:
        assert width / height == pytest.approx(shape[1] / shape[0], rel=0.01)
    strip = overlay(
        np.zeros((*shape, 3), np.uint8), np.zeros((5, 5), np.float32), None, 0.5, (0, 1), "score\npath"
    )
    assert strip.shape == (height + drawing.CAPTION_HEIGHT, 4 * width + 3 * drawing.PANEL_GAP, 3)


def test_the_prediction_outlines_exactly_what_reaches_the_threshold():
    grey = np.full((300, 500, 3), 90, np.uint8)
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[2:5, 6:9] = 1
    outline = near(panels(grey, anomaly_map, None, 0.5, (0, 1))[3], PREDICTION_COLOUR)
    region = upsample(anomaly_map, *outline.shape) >= 0.5
    border = cv2.morphologyEx(region.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8)) > 0
    assert outline.sum() > 200 and not (outline & ~border).any()
    rows, columns = np.nonzero(outline)
    region_rows, region_columns = np.nonzero(region)
    for found, wanted in ((rows, region_rows), (columns, region_columns)):
        assert abs(found.min() - wanted.min()) <= 2 and abs(found.max() - wanted.max()) <= 2
    for threshold in (1.5, None):
        np.testing.assert_array_equal(panels(grey, anomaly_map, None, threshold, (0, 1))[3], resized(grey))


def resized(picture):
    return drawing.resize(picture, *drawing.panel_size(*picture.shape[:2]))


def test_the_ground_truth_is_outlined_even_when_tiny_and_only_if_there_is_one():
    picture, mask = photo(3, True, (900, 700))
    blank = np.zeros((10, 10), np.float32)
    for empty in (None, np.zeros_like(mask)):
        np.testing.assert_array_equal(panels(picture, blank, empty, None, (0, 1))[1], resized(picture))
    dot = np.zeros_like(mask)
    dot[450, 350] = True
    truth = near(panels(picture, blank, dot, None, (0, 1))[1], TRUTH_COLOUR, 120)
    assert truth.any() and np.abs(np.argwhere(truth).mean(axis=0) - np.array(truth.shape) / 2).max() < 2


NASTY = [
    "../../etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "CON",
    "nul.txt",
    "<img src=x onerror=alert(1)>",
    "a b",
    "a_b",
    "ä",
    "漢字",
    "x" * 300,
    "x" * 301,
    "new\nline",
    "\udc80",
    "contact_sheet",
    "-rf",
    ".hidden",
    "%2e%2e",
    "com1.png",
    "reference-0",
    'quote"s',
    "good_000",
]


def test_file_names_are_safe_short_and_distinct():
    names = [safe_name(text) for text in NASTY]
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", name)
        assert name.split(".")[0].lower() not in ("con", "nul", "contact_sheet")
    assert len({name.lower() for name in names}) == len(NASTY)
    assert safe_name("good_000") == "good_000"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=12)), max_size=12))
def test_any_image_paths_get_distinct_safe_names(images):
    names = picture_names([path for path, _ in images], [defect for _, defect in images])
    assert len({name.lower() for name in names}) == len(images)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)
    assert not {"reference-0", "reference-1"} & set(names)


def test_the_same_file_name_in_two_folders_does_not_collide():
    assert picture_names(
        ["a/good/000.png", "b/good/000.PNG", "c/GOOD/000.png"], ["good", "good", "GOOD"]
    ) == ["good_000", "good_000_2", "GOOD_000_3"]


def test_pictures_of_a_category(tmp_path):
    view = category_view("strap", 4, 5, (160, 80))
    summary = write_pictures(view, tmp_path)
    folder = tmp_path / "strap"
    for file, size in zip(summary.files, summary.panel_sizes):
        strip = cv2.imread(str(folder / f"{file}.jpg"))
        assert strip.shape == (size[0] + drawing.CAPTION_HEIGHT, 4 * size[1] + 3 * drawing.PANEL_GAP, 3)
        thumbnail = cv2.imread(str(summary.thumbnail(file)))
        assert thumbnail.shape[:2] == (192, 4 * 96)
    assert summary.thumbnail(summary.reference_files[0]).exists() and summary.problems == []
    assert cv2.imread(str(folder / "contact_sheet.jpg")).shape[1] > 1000
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_limit_keeps_the_worst_and_every_thumbnail(tmp_path):
    view = category_view("plate", 6, 6, (60, 60))
    summary = write_pictures(view, tmp_path, limit=3)
    kept = [index for index, has in enumerate(summary.has_strip) if has]
    assert len(kept) == 3 == len(list((tmp_path / "plate").glob("*_0*.jpg")))
    worst_miss = min(np.flatnonzero(view.labels), key=lambda index: view.scores[index])
    worst_alarm = max(np.flatnonzero(~view.labels), key=lambda index: view.scores[index])
    assert {worst_miss, worst_alarm} <= set(kept)
    assert all(summary.thumbnail(file).exists() for file in summary.files)
    assert not any(write_pictures(view, tmp_path / "none", limit=0).has_strip)


def test_unreadable_photos_masks_and_references_cost_only_themselves(tmp_path):
    view = category_view("plate", 2, 2, (60, 60))

    def broken(index):
        if index == 1:
            raise OSError("cannot identify image file")
        return view.read_photo(index)

    def no_mask(index):
        raise ValueError("not an image")

    summary = write_pictures(
        replace(view, read_photo=broken, read_mask=no_mask, reference_photo=no_mask), tmp_path
    )
    assert len(summary.problems) == 1 + 3 + 1 and "cannot identify" in summary.problems[1]
    assert all(summary.thumbnail(file).exists() for file in [*summary.files, *summary.reference_files])


def test_ranked_choice_orders_misses_and_false_alarms():
    labels, scores = np.array([0, 1, 1, 0, 1, 0], bool), np.array([0.1, 0.9, 0.2, 0.8, 0.5, 0.0])
    misses, alarms, rest = ranked_choice(labels, scores, 6)
    assert misses == [2, 4] and alarms == [3, 0] and rest == [1, 5]
    assert ranked_choice(np.zeros(2, bool), np.zeros(2), 3)[0] == []


def test_verdicts():
    assert [verdict(label, score, 0.5) for label, score in ((0, 0.4), (0, 0.5), (1, 0.4), (1, 0.5))] == [
        "passed",
        "false alarm",
        "missed",
        "detected",
    ]
    assert verdict(True, 0.5, None) == ""


def test_a_text_that_is_too_long_loses_its_middle_and_other_letters_have_a_font(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        drawing.ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, **more: drawn.append((text, more["font"])),
    )
    name = "Line7_Camera3_station-inspection_000123.png"
    drawing.write_on(
        np.zeros((40, 200, 3), np.uint8),
        [
            (0, 0, name, (255, 255, 255), 180),
            (0, 0, name, (255, 255, 255), 5),
            (0, 0, "short.png", (255, 255, 255), 180),
        ],
    )
    text, font = drawn[0]
    head, tail = text.split("…")
    assert (
        name.startswith(head)
        and name.endswith(tail)
        and tail.endswith("0123.png")
        and font.getlength(text) <= 180
    )
    assert drawn[1][0] == "" and drawn[2][0] == "short.png"
    monkeypatch.setattr(drawing, "SYSTEM_FONTS", (("\x80", ("no such font.ttf",)),))
    drawing._font.cache_clear()
    assert drawing._font(15, "Ü").getname() == drawing._font(15).getname()
    asked = []
    monkeypatch.setattr(drawing, "SYSTEM_FONTS", (("\u2e80", ("wide.ttc",)), ("\x80", ("usual.ttf",))))
    monkeypatch.setattr(drawing.ImageFont, "truetype", lambda name, size: asked.append(name))
    drawing._font.cache_clear()
    for letters in ("Ü", "Ü检"):
        drawing._font(15, letters)
    assert asked == ["usual.ttf", "wide.ttc"]
    drawing._font.cache_clear()


def test_pictures_of_similar_names_are_apart():
    names = ["a/b.png", "a_b.png", "a/b.jpg", "a b.png", "A/b.png"]
    assert len({picture_name(name).lower() for name in names}) == len(names)


@pytest.mark.parametrize("suffix, most", [(".jpg", 65_500), (".webp", 16_383)])
def test_a_picture_larger_than_its_format_holds_is_written_smaller(tmp_path, suffix, most):
    write_image(tmp_path / f"long{suffix}", np.zeros((4, 70_000, 3), np.uint8))
    with Image.open(tmp_path / f"long{suffix}") as written:
        assert written.size[0] == most and written.size[1] >= 1
