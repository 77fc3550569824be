"""The page fits a detector as the Python interface does, and changes nothing where it cannot."""

import json
from dataclasses import replace

import pytest

from fdsl.api import AnomalyDetector

pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

from page.session import Session  # noqa: E402
from tests.support.photographs import png  # noqa: E402
from tests.support.visitor import LIMITS, fitted_visitor, image, images, visiting  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_scores_and_threshold_are_the_python_interfaces(visitor, detector, tmp_path):
    state = visitor.fitted(1, 2, rotations=2, rate=0.05)
    reported = [visitor.scored(png(3, spot), f"{spot}.png") for spot in (False, True)]
    plain = detector.another()
    plain.fit(images(1, 2), rotations=2, false_alarm_rate=0.05)
    found = plain.predict([image(3, spot) for spot in (False, True)])
    assert state["threshold"]["score"] == plain.threshold.score and state["rate"] == 0.05
    assert [row["score"] for row in reported] == [one.score for one in found]
    assert reported[1]["score"] > reported[0]["score"] and reported[1]["regions"]
    assert not detector.ready, "visitors have detectors of their own"


def test_the_references_may_choose_how_often_they_are_rotated(visitor, detector, tmp_path, monkeypatch):
    state = visitor.fitted(1, 2, rotations="auto")
    plain = detector.another()
    plain.fit(images(1, 2), rotations="auto")
    assert state["rotations"] == "auto" and state["rotated"] == plain.config.rotations
    assert state["threshold"]["score"] == plain.threshold.score
    visitor.ask("POST", "/learn", json={"rotations": 1})
    assert visitor.ask("GET", "").json["rotations"] == 1
    other = visiting(detector, tmp_path / "other", rotations="auto")
    assert other.ask("GET", "").json["rotations"] == "auto"
    assert visiting(plain, tmp_path / "fitted").ask("GET", "").json["rotations"] == "auto"
    many = visiting(detector, tmp_path / "many", replace(LIMITS, references=7))
    for seed in range(7):
        many.upload("references", png(seed))
    monkeypatch.setattr("fdsl.references.rotation.rotation_gain", lambda *_: 1.0)
    assert many.ask("POST", "/learn", json={"rotations": "auto"}).json["rotated"] == 1
    assert visitor.ask("POST", "/learn", json={"rotations": "auto"}).json["rotated"] == 8
    refusal = many.ask("POST", "/learn", 422, json={"rotations": 8}).json["error"]
    assert "7 references with 8 rotated copies each are more than 48" in refusal


LEFT = {"points": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]], "ignored": False}


def test_a_region_of_interest_that_is_drawn_counts_and_is_saved(visitor, tmp_path):
    state = visitor.fitted(1, 2, shapes=[LEFT])
    assert state["shapes"] == [LEFT]
    found = visitor.saved_detector(tmp_path / "part.safetensors").predict(image(5, True))
    middle = found.patch_map.shape[1] // 2
    assert (found.patch_map[:, middle:] == 0).all() and found.patch_map[:, :middle].any()
    assert visitor.scored(png(5, True))["score"] == found.score
    assert visitor.ask("POST", "/learn", json={}).json["shapes"] == []
    assert visitor.ask("POST", "/learn", json={"shapes": [LEFT]}).json["shapes"] == [LEFT]
    for number in visitor.ask("GET", "").json["fitted"]:
        state = visitor.ask("DELETE", f"/uploads/{number}").json
    assert state["shapes"] == [], "without references it is as it started"
    visitor.fitted(1, 2)
    assert visitor.scored(png(5, True))["score"] != found.score


@pytest.mark.parametrize(
    "shapes, words",
    [
        (
            [{**LEFT, "ignored": True, "points": [[0, 0], [1, 0], [1, 1], [0, 1]]}],
            "leaves nothing to evaluate",
        ),
        ([{**LEFT, "points": LEFT["points"][:2]}], "3 or more corners"),
        ([{**LEFT, "points": [[0, 0], [2, 0], [0, 1]]}], "corners from 0 to 1"),
        ([{**LEFT, "points": [[0, 0], [1e999, 0], [0, 1]]}], "is a list of polygons"),
        ([{**LEFT, "points": [[0, 0], ["a", 0], [0, 1]]}], "is a list of polygons"),
        ([{"points": LEFT["points"]}], "is a list of polygons"),
        ("all", "is a list of polygons"),
        ([LEFT] * 101, "is a list of polygons"),
        ([{**LEFT, "points": [[0, 0], [0.01, 0], [0, 0.01]]}], "covers no patch by half"),
    ],
)
def test_a_region_of_interest_that_cannot_be_is_one_sentence(visitor, shapes, words):
    before = visitor.fitted(1, 2)
    body, headers = json.dumps({"shapes": shapes}), {"Content-Type": "application/json"}
    assert words in visitor.ask("POST", "/learn", 422, data=body, headers=headers).json["error"]
    assert visitor.ask("GET", "").json["threshold"] == before["threshold"]


def test_how_far_it_is_is_heard_while_it_fits(detector, tmp_path, monkeypatch):
    heard = []
    noted = property(lambda self: heard[-1] if heard else "", lambda self, words: heard.append(words))
    monkeypatch.setattr(Session, "progress", noted, raising=False)
    visitor = fitted_visitor(detector, tmp_path / "page")
    assert {"encoding references, 0 of 2", "encoding references, 1 of 2"} <= set(heard) and heard[-1] == ""
    visitor.upload("calibration", png(7))
    visitor.ask("POST", "/calibrate", json={})
    assert heard[-2:] == ["calibration images, 0 of 1", ""]
    heard.append("images, 3 of 4")
    assert visitor.ask("GET", "/progress").json == {"progress": "images, 3 of 4"}


def test_a_new_fit_asks_for_new_scores(visitor):
    visitor.fitted(1)
    before = visitor.scored(png(3, True))
    visitor.ask("DELETE", "/uploads/1")
    state = visitor.fitted(2)
    assert state["photographs"][0]["score"] is None
    after = visitor.ask("POST", f"/photographs/{before['number']}/score").json
    assert after["score"] != before["score"]
    again = visitor.ask("PUT", "/threshold", json={"rate": 0.2}).json
    assert again["threshold"]["score"] < state["threshold"]["score"] and again["rate"] == 0.2


def test_a_fit_that_fails_changes_nothing(visitor, monkeypatch):
    visitor.fitted(1, rate=0.05)
    visitor.scored(png(3, True))
    before = visitor.ask("GET", "").json
    visitor.upload("references", png(2))
    with monkeypatch.context() as patch:
        patch.setattr("fdsl.api.normal_scores", lambda *_: (_ for _ in ()).throw(MemoryError()))
        visitor.ask("POST", "/learn", 507, json={})
    visitor.ask("POST", "/learn", 422, json={"rotations": 36})
    after = visitor.ask("GET", "").json
    assert len(after.pop("references")) == 2 and len(before.pop("references")) == 1 and after == before


def test_without_its_last_reference_it_is_as_it_started(visitor):
    start = visitor.ask("GET", "").json
    visitor.fitted(1)
    number = visitor.scored(png(3, True))["number"]
    visitor.ask("DELETE", "/uploads/1")
    state = visitor.ask("GET", "").json
    assert state["photographs"][0]["score"] is None and not state["ready"] and state["fitted"] == []
    visitor.ask("DELETE", f"/uploads/{number}")
    assert visitor.ask("GET", "").json == start


def test_a_detector_with_references_serves_at_once_and_comes_back(detector, tmp_path):
    other = detector.another()
    other.fit([image(1)], false_alarm_rate=0.2)
    visitor = visiting(other, tmp_path)
    state = visitor.ask("GET", "").json
    assert state["builtIn"] == 1 and state["ready"] and state["threshold"]["score"] == other.threshold.score
    score = visitor.scored(png(3, True))["score"]
    visitor.fitted(2)
    assert visitor.ask("GET", "").json["builtIn"] == 0
    visitor.ask("DELETE", "/uploads/2")
    assert visitor.ask("POST", "/photographs/1/score").json["score"] == score


def test_a_false_alarm_becomes_a_reference(visitor):
    """It is added to the references, and its score falls once they are fitted."""
    visitor.fitted(1, 2)
    row = visitor.scored(png(3, True), "alarm.png")
    state = visitor.ask("POST", f"/photographs/{row['number']}/reference").json
    assert [one["name"] for one in state["references"]] == ["part.png", "part.png", "alarm.png"]
    visitor.fitted()
    again = visitor.ask("POST", f"/photographs/{row['number']}/score").json
    assert again["score"] < row["score"] and again["normal_percentile"] < row["normal_percentile"]
    refused = visitor.ask("POST", f"/photographs/{row['number']}/reference", 422).json["error"]
    assert "3 references are as many as this page holds" in refused
    visitor.ask("POST", "/photographs/99/reference", 404)


def test_references_that_a_detector_carries_stay_beside_a_new_one(detector, tmp_path):
    """They appear as references, so that each can be removed; the fit is that of all photographs."""
    other = detector.another()
    other.fit(images(1, 2), rotations=1)
    visitor = visiting(other, tmp_path)
    row = visitor.scored(png(3, True), "alarm.png")
    state = visitor.ask("POST", f"/photographs/{row['number']}/reference").json
    assert [one["name"] for one in state["references"]] == [
        "photograph 1.png",
        "photograph 2.png",
        "alarm.png",
    ]
    visitor.fitted()
    other.add_references(image(3, True))
    score = visitor.ask("POST", f"/photographs/{row['number']}/score").json["score"]
    assert score == other.predict(image(3, True)).score


@pytest.mark.parametrize(
    "carried, taken, sentence",
    [((1, 2), 2, "is among the references already"), ((1, 2, 3), 4, "3 references are as many as")],
)
def test_a_photograph_that_cannot_become_a_reference_changes_nothing(
    detector, tmp_path, carried, taken, sentence
):
    other = detector.another()
    other.fit(images(*carried), rotations=1)
    content = other.stored[-1].content if taken in carried else png(taken)
    visitor = visiting(other, tmp_path)
    number = visitor.upload("photographs", content)["number"]
    before, files = visitor.ask("GET", "").json, sorted(tmp_path.rglob("*"))
    refused = visitor.ask("POST", f"/photographs/{number}/reference", 422).json["error"]
    assert sentence in refused
    assert visitor.ask("GET", "").json == before and sorted(tmp_path.rglob("*")) == files


def test_a_reference_removed_while_it_is_fitted_does_not_count_afterwards(visitor, monkeypatch):
    for seed in (1, 2):
        visitor.upload("references", png(seed))
    plain, fits = AnomalyDetector.fit, []

    def fit(self, photos, **more):
        fits.append(len(photos))
        if len(fits) == 1:
            visitor.ask("DELETE", "/uploads/1")
        plain(self, photos, **more)

    monkeypatch.setattr(AnomalyDetector, "fit", fit)
    state = visitor.ask("POST", "/learn", json={}).json
    assert fits == [2, 1] and state["fitted"] == [2]


def test_when_all_references_are_removed_while_they_are_fitted_none_counts(visitor, monkeypatch):
    visitor.upload("references", png(1))
    plain = AnomalyDetector.fit

    def fit(self, photos, **more):
        plain(self, photos, **more)
        visitor.ask("DELETE", "/uploads/1")

    monkeypatch.setattr(AnomalyDetector, "fit", fit)
    assert "there is no reference yet" in visitor.ask("POST", "/learn", 422, json={}).json["error"]
    state = visitor.ask("GET", "").json
    assert not state["ready"] and state["fitted"] == []
