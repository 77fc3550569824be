"""The threshold of the page from calibration images."""

import pytest

from fdsl.api import AnomalyDetector
from fdsl.inspection.regions import regions_of
from fdsl.inspection.score_files import draw

pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

from tests.support.photographs import grey_png, png  # noqa: E402
from tests.support.visitor import image, images, visiting  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


CALIBRATION = (11, 12, 13)


def calibrated(visitor, *seeds, rate=0.05):
    for seed in seeds or CALIBRATION:
        visitor.upload("calibration", png(seed), f"normal {seed}.png")
    return visitor.ask("POST", "/calibrate", json={"rate": rate}).json


@pytest.mark.parametrize("first", ("references", "calibration"))
def test_the_threshold_comes_from_calibration_images(visitor, detector, first):
    """Whichever was uploaded first; a score stays, its percentile and its regions follow."""
    plain = detector.another()
    plain.fit(images(1, 2), rotations=1, false_alarm_rate=0.05)
    if first == "references":
        before = visitor.fitted(1, 2, rate=0.05)
        row = visitor.scored(png(3))
        assert before["threshold"]["score"] == plain.threshold.score and before["calibrated"] == []
        state = calibrated(visitor)
    else:
        for seed in CALIBRATION:
            visitor.upload("calibration", png(seed), f"normal {seed}.png")
        row = None
        state = visitor.fitted(1, 2, rate=0.05)
    plain.calibrate(0.05, images(*CALIBRATION))
    found = plain.predict(image(3))
    assert state["threshold"] == {
        "score": plain.threshold.score,
        "pixel_threshold": plain.threshold.pixel_threshold,
        "source": plain.threshold.source,
        "rate": 0.05,
    }
    assert "3 calibration images" in state["threshold"]["source"] and state["rate"] == 0.05
    assert state["calibrated"] == [one["number"] for one in state["calibration"]]
    for number in state["calibrated"]:
        assert visitor.ask("GET", f"/uploads/{number}/photo.jpg").mimetype == "image/jpeg"
    assert state["calibrationScores"] == 3 and state["trust"] == plain.decision.normal.trust
    if row is not None:
        after = state["photographs"][0]
        assert after["score"] == row["score"] and after["normal_percentile"] != row["normal_percentile"]
    else:
        after = visitor.scored(png(3))
    assert after["score"] == found.score and after["normal_percentile"] == found.normal_percentile
    assert after["regions"] == [
        one.to_dict()
        for one in regions_of(found.anomaly_map, plain.threshold.pixel_threshold, found.min_area)
    ]


def test_another_rate_is_of_the_calibration_images(visitor):
    visitor.fitted(1, 2)
    before = calibrated(visitor)
    state = visitor.ask("PUT", "/threshold", json={"rate": 0.5}).json
    assert state["threshold"]["score"] < before["threshold"]["score"] and state["rate"] == 0.5
    assert "3 calibration images" in state["threshold"]["source"]
    by_hand = visitor.ask("PUT", "/threshold", json={"score": 0.5}).json
    assert by_hand["trust"] == "" and by_hand["rate"] is None and state["trust"]


def test_without_calibration_images_it_is_the_references_threshold_again(visitor):
    start = visitor.fitted(1, 2, rate=0.05)
    score = visitor.scored(png(3, True))
    state = calibrated(visitor)
    numbers = [one["number"] for one in state["calibration"]]
    for number in numbers[:-1]:
        visitor.ask("DELETE", f"/uploads/{number}")
        left = visitor.ask("GET", "").json
        assert left["threshold"] == state["threshold"], "until the page calibrates anew"
    fewer = visitor.ask("POST", "/calibrate", json={"rate": 0.05}).json
    assert fewer["calibrated"] == numbers[-1:] and "1 calibration image" in fewer["threshold"]["source"]
    visitor.ask("DELETE", f"/uploads/{numbers[-1]}")
    after = visitor.ask("GET", "").json
    assert after["threshold"] == start["threshold"] and after["trust"] == start["trust"]
    assert after["photographs"] == [score] and after["calibrated"] == [] and after["rate"] == 0.05
    assert "no calibration image" in visitor.ask("POST", "/calibrate", 422, json={}).json["error"]


def test_a_saved_detector_and_results_have_the_threshold_of_calibration_images(visitor, tmp_path):
    visitor.fitted(1, 2)
    visitor.scored(png(3, True))
    state = calibrated(visitor)
    saved = visitor.saved_detector(tmp_path / "part.safetensors")
    assert saved.threshold.score == state["threshold"]["score"] and saved.decision.normal.is_calibrated
    archive, rows = visitor.results()
    (row,) = rows
    assert row["threshold"] == state["threshold"]["score"]
    photo = image(3, True)
    place = draw("part.png", photo, saved.predict(photo), tmp_path)
    assert archive.read(row["picture"]) == (tmp_path / place).read_bytes(), "heat follows the threshold too"


def test_a_detector_with_references_is_calibrated_without_others(detector, tmp_path):
    fitted = detector.another()
    fitted.fit(images(1, 2), false_alarm_rate=0.2)
    visitor = visiting(fitted, tmp_path)
    start = visitor.ask("GET", "").json
    same = fitted.stored[0].content
    assert "among the references" in visitor.upload("calibration", same, expected=422)["error"]
    state = calibrated(visitor)
    assert "3 calibration images" in state["threshold"]["source"] and state["builtIn"] == 2
    for one in state["calibration"]:
        visitor.ask("DELETE", f"/uploads/{one['number']}")
    assert start["rate"] == 0.2 and visitor.ask("GET", "").json["rate"] == state["rate"]
    again = visitor.ask("PUT", "/threshold", json={"rate": 0.2}).json
    assert again["threshold"].pop("score") == start["threshold"].pop("score")  # the pixel threshold stays
    assert again | {"threshold": None} == start | {"threshold": None}


def test_a_calibration_image_removed_while_it_is_scored_does_not_count(visitor, monkeypatch):
    visitor.fitted(1, 2)
    number = visitor.upload("calibration", png(11))["number"]
    plain, counts = AnomalyDetector.calibrate, []

    def calibrate(self, rate, images=None):
        counts.append(len(images))
        plain(self, rate, images)
        if len(counts) == 1:
            visitor.ask("DELETE", f"/uploads/{number}")

    monkeypatch.setattr(AnomalyDetector, "calibrate", calibrate)
    state = calibrated(visitor, 12, 13)
    assert counts == [3, 2] and number not in state["calibrated"] and len(state["calibrated"]) == 2


def test_calibration_images_without_a_part_do_not_count(visitor):
    before = visitor.fitted(1, 2, rate=0.05)
    visitor.upload("calibration", grey_png(), "empty.png")
    refused = visitor.ask("POST", "/calibrate", 422, json={}).json["error"]
    assert "no calibration image shows what the references show" in refused
    assert visitor.ask("GET", "").json["threshold"] == before["threshold"]
    state = calibrated(visitor)
    assert len(state["calibrated"]) == 4 and state["calibrationScores"] == 3
