"""What the page gives to take home is what predict.py writes."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fdsl.report import drawing
from utils.image_statistics import DIFFERENT

pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

from page.findings import Photograph, judged_by  # noqa: E402
from tests.support.photographs import grey_png, png  # noqa: E402
from tests.support.visitor import fitted_visitor, image  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_results_are_those_of_predict(visitor):
    visitor.fitted(1, 2)
    scores = [
        visitor.scored(png(seed, spot), "same name.png")["score"] for seed, spot in ((3, False), (4, True))
    ]
    middle = sum(scores) / 2
    assert (
        visitor.ask("PUT", "/threshold", json={"score": middle}).json["threshold"]["source"] == "set by hand"
    )
    archive, rows = visitor.results()
    assert [row["image"] for row in rows] == ["same name.png", "same name (2).png"]
    assert [row["score"] for row in rows] == scores and [row["anomalous"] for row in rows] == [False, True]
    assert rows[1]["boxes"] and not rows[0]["boxes"] and all(row["threshold"] == middle for row in rows)
    assert {"scores.csv", "report.html", "contact_sheet.jpg", "config.json"} <= set(archive.namelist())
    for row in rows:
        height, width = drawing.panel_size(36, 44, drawing.INSPECTION_SIDE)
        picture = Image.open(io.BytesIO(archive.read(row["picture"])))
        assert picture.size == (2 * width + drawing.PANEL_GAP, height + drawing.CAPTION_HEIGHT)


def test_a_saved_detector_gives_the_same_scores(visitor, tmp_path):
    visitor.fitted(1, 2)
    score = visitor.scored(png(5, True))["score"]
    assert visitor.saved_detector(tmp_path / "part.safetensors").predict(image(5, True)).score == score


def test_the_reason_follows_the_normal_images_that_are_known(detector):
    """Calibration images change them after a photograph was scored."""
    made = detector.another()
    made.fit([image(1), image(2)])
    found = made.predict(image(4, True))
    photograph = Photograph("photographs", 0, "part.png", Path("0.png"), found.size, found)
    before = photograph.row_by(made)
    normal = made.decision.normal
    made.decision = replace(made.decision, normal=replace(normal, map_median=normal.map_median / 100))
    after = photograph.row_by(made)
    assert (before["reason"], after["reason"]) == ("", DIFFERENT)
    assert before["regions"] and not after["regions"]
    assert judged_by(made, found).reason == DIFFERENT


def test_small_regions_are_left_out_by_min_area(detector, tmp_path):
    other = detector.another()
    assert fitted_visitor(detector, tmp_path / "all").scored(png(4, True))["regions"]
    other.min_area = 10**6
    assert fitted_visitor(other, tmp_path / "large").scored(png(4, True))["regions"] == []


def test_what_is_removed_meanwhile_is_left_out(visitor, tmp_path):
    visitor.fitted(1)
    rows = [visitor.scored(png(seed), f"{seed}.png") for seed in (2, 3)]
    next(tmp_path.rglob(f"{rows[0]['number']}.upload")).unlink()
    _, left = visitor.results()
    assert [row["image"] for row in left] == ["3.png"]
    visitor.ask("POST", f"/photographs/{rows[0]['number']}/score", 404)
    visitor.ask("GET", f"/uploads/{rows[0]['number']}/photo.jpg", 404)


def test_a_photograph_without_a_part_has_a_reason(visitor):
    visitor.fitted(1, 2)
    row = visitor.scored(grey_png(), "empty.png")
    assert row["reason"] == "no part in the picture" and row["regions"] == []
    assert visitor.scored(png(3), "part.png")["reason"] == ""
    assert visitor.ask("PUT", "/threshold", json={"score": 5}).json["photographs"][0] == row
    _, rows = visitor.results()
    empty, part = rows
    assert empty["anomalous"] and empty["reason"] == row["reason"] and not part["anomalous"]


def test_photographs_that_no_longer_look_like_the_references_are_reported(detector, tmp_path, monkeypatch):
    """The last so many as a whole, as predict.py reports them, with one that shows it."""
    monkeypatch.setattr("utils.drift.WINDOW", 2)
    visitor = fitted_visitor(detector, tmp_path / "drift")
    for seed in (3, 4):
        visitor.scored(png(seed), f"{seed}.png")
    dark = io.BytesIO()
    image(5).point(lambda value: int(0.8 * value)).save(dark, "PNG")
    visitor.scored(dark.getvalue(), "dark.png")
    assert visitor.ask("GET", "").json["drift"] == []
    number = visitor.scored(dark.getvalue(), "darker.png")["number"]
    changes = visitor.ask("GET", "").json["drift"]
    assert any("last 2 photographs are darker than the references" in one["sentence"] for one in changes)
    assert {one["name"] for one in changes} <= {"dark.png", "darker.png"}
    assert visitor.ask("DELETE", f"/uploads/{number}").json["drift"] == []
