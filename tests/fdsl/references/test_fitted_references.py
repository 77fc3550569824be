"""References that count once or not at all, whatever their order, and photographs that cannot be judged."""

import io
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from data.photographs import pixel_digest
from fdsl.api import AnomalyDetector
from fdsl.references.fitted_references import usable_references
from fdsl.references.reference_store import FILE
from tests.support.photographs import texture as drawn
from tests.support.predictions import BACKBONE_OPTIONS
from utils.errors import DataError
from utils.image_statistics import NO_PART, OUT_OF_FOCUS


@pytest.fixture
def detector(tiny_configs):
    return AnomalyDetector.from_backbone(
        model_config=tiny_configs, device="cpu", precision="fp32", **BACKBONE_OPTIONS
    )


def texture(seed):
    return Image.fromarray(drawn(seed, height=180, width=240))


def noisy(photo, seed, deviation=2):
    values = np.asarray(photo, float) + np.random.default_rng(seed).normal(0, deviation, np.shape(photo))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def as_jpeg(photo):
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=85)
    return Image.open(stream).convert("RGB")


def test_near_copies_count_once(logged):
    one, two = texture(1), texture(2)
    brighter, darker = (one.point(lambda level, gain=gain: int(level * gain)) for gain in (1.04, 0.97))
    larger, shifted = one.resize((960, 720)), one.crop((1, 1, 240, 180))
    given = [one, noisy(one, 1), as_jpeg(one), one, brighter, darker, larger, shifted, two]
    (used,) = set(usable_references(given, list("abcdefghi"), 64)) - {8}
    for name in set("abcdefgh") - {"abcdefgh"[used]}:
        assert f"{name} shows the same as {'abcdefgh'[used]}: they count as one reference" in logged()
    much_darker = one.point(lambda level: int(level * 0.6))
    assert set(usable_references([one, much_darker], ["a", "b"], 64)) == {0, 1}


def test_frames_of_a_part_at_rest_are_one_reference(detector):
    frames = [noisy(texture(1), seed) for seed in range(4)]
    detector.fit(frames)
    at_rest = detector.threshold.score
    assert detector.config.references == 1
    detector.fit(min(frames, key=pixel_digest))
    assert detector.threshold.score == at_rest


def fitted(detector, references, **how):
    """What a detector is fitted to, but for the references' files, and what it says of a defect."""
    detector.fit(references, **how)
    tensors = {name: one for name, one in detector.tensors().items() if not name.startswith(FILE)}
    found = detector.predict(drawn(9, defect=True))
    return tensors, detector.threshold, detector.heat_scale, found.score, found.normal_percentile


def same(one, other):
    return one[1:] == other[1:] and all(torch.equal(value, other[0][name]) for name, value in one[0].items())


@pytest.mark.parametrize("precision, count", [("fp32", 2), ("bf16", 3)])
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "nearest"},
        {"method": "subspace"},
        {"method": "plus"},
        {"method": "nearest", "with_batch": True},
    ],
    ids=["nearest", "subspace", "plus", "with batch"],
)
def test_the_order_of_references_changes_nothing(tiny_configs, settings, precision, count):
    detector = AnomalyDetector.from_backbone(
        model_config=tiny_configs, device="cpu", precision=precision, **BACKBONE_OPTIONS, **settings
    )
    how = {"test_images": [drawn(5), drawn(6)]} if settings.get("with_batch") else {}
    orders = permutations([texture(seed) for seed in range(count)])
    first, *others = (fitted(detector, order, **how) for order in orders)
    assert all(same(first, other) for other in others)


def test_nor_does_that_of_near_copies(detector):
    orders = permutations([texture(0), texture(1), as_jpeg(texture(1))])
    first, *others = (fitted(detector, order) for order in orders)
    assert detector.config.references == 2 and all(same(first, other) for other in others)


def test_a_reference_that_shows_no_part_is_named_and_left_out(detector, logged):
    parts, black = [texture(seed) for seed in range(3)], Image.new("RGB", texture(0).size)
    detector.fit(parts)
    limit = detector.threshold.score
    detector.fit([*parts[:2], black, parts[2]])
    assert f"image 3 is left out of the references: {NO_PART}" in logged()
    assert detector.config.references == 3 and detector.threshold.score == limit


def test_of_two_that_differ_both_are_used_and_named(detector, logged):
    blurred = texture(1).filter(ImageFilter.GaussianBlur(8))
    assert set(usable_references([texture(0), blurred], ["sharp", "blurred"], 224)) == {0, 1}
    assert (
        f"blurred is used, although compared with the other references it is not like them ({OUT_OF_FOCUS})"
        in (logged())
    )
    assert set(usable_references([texture(0), blurred, texture(2)], list("abc"), 224)) == {0, 2}
    assert f"b is left out of the references: {OUT_OF_FOCUS}" in logged() and "b is used" not in logged()


def test_a_frame_that_shows_no_part_is_anomalous_with_a_reason(detector, tmp_path):
    detector.fit([texture(1), texture(2)])
    found = detector.predict(Image.new("RGB", texture(0).size))
    assert found.is_anomalous and found.reason == NO_PART and found.boxes == []
    assert detector.predict(texture(3)).reason == ""
    detector.threshold = None
    assert detector.predict(Image.new("RGB", texture(0).size)).is_anomalous
    assert detector.predict(texture(3)).is_anomalous is None
    detector.save(tmp_path / "part.safetensors")
    again = AnomalyDetector.load(tmp_path / "part.safetensors")
    assert again.predict(Image.new("RGB", texture(0).size)).reason == NO_PART


def test_calibration_images_give_the_threshold(detector, tmp_path, logged):
    detector.fit([texture(1)], false_alarm_rate=None)
    normal = [texture(seed) for seed in range(2, 11)]
    black = Image.new("RGB", texture(0).size)
    detector.calibrate(0.1, [*normal, normal[0], black, texture(1)])
    assert f"image 11 is left out of the calibration: {NO_PART}" in logged()
    assert "image 12 is a reference, and is left out of the calibration" in logged()
    scores = sorted(found.score for found in detector.predict(normal))
    assert detector.threshold.score == np.nextafter(scores[-1], 1)
    assert "9 calibration images" in detector.threshold.source
    detector.calibrate(0.5)
    assert detector.threshold.score == np.nextafter(scores[4], 1)
    detector.save(tmp_path / "part.safetensors")
    again = AnomalyDetector.load(tmp_path / "part.safetensors")
    again.calibrate(0.1)
    assert again.threshold.score == np.nextafter(scores[-1], 1)
    again.add_references(texture(12))
    assert "give the calibration images again" in logged() and "reference" in again.threshold.source
    with pytest.raises(DataError, match="no calibration image shows"):
        detector.calibrate(0.1, [black])
