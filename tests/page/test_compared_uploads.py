"""The page's photographs compared with each other: they score as predict.py scores them, and say what they
see."""

from functools import partial

import numpy as np
import pytest

from fdsl.api import AnomalyDetector
from fdsl.thresholds.threshold import batch_threshold

pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

from page.collection import Limits  # noqa: E402
from tests.support.detectors import small_detector  # noqa: E402
from tests.support.photographs import png  # noqa: E402
from tests.support.visitor import images, visiting  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = Limits(file_bytes=200_000, references=3, photographs=10)


@pytest.fixture
def made(tiny_configs):
    return partial(small_detector, tiny_configs)


def scores(visitor):
    """Of all photographs, in their order."""
    numbers = [one["number"] for one in visitor.ask("GET", "").json["photographs"]]
    return [visitor.ask("POST", f"/photographs/{number}/score").json["score"] for number in numbers]


def as_predicted(detector, folder, seeds, references=()):
    """What the Python interface says of the photographs of these seeds."""
    plain = detector.another()
    photos = images(*seeds)
    normal = images(*references)
    plain.fit(normal, test_images=photos, false_alarm_rate=0.01)
    return plain, plain.predict(photos)


def test_photographs_are_compared_with_each_other(made, tmp_path):
    detector = made(method="batch")
    visitor = visiting(detector, tmp_path / "page", LIMITS)
    state = visitor.ask("GET", "").json
    assert state["compares"] and not state["ready"] and not state["takesReferences"]
    visitor.upload("photographs", png(1))
    refusal = visitor.ask("POST", "/learn", 422, json={}).json["error"]
    assert "add 2 or more to inspect" in refusal
    for seed in (2, 3):
        visitor.upload("photographs", png(seed), f"{seed}.png")
    state = visitor.ask("POST", "/learn", json={}).json
    numbers = [one["number"] for one in state["photographs"]]
    assert state["ready"] and state["compared"] == numbers and state["threshold"] is None
    _, found = as_predicted(detector, tmp_path, (1, 2, 3))
    assert scores(visitor) == [one.score for one in found]
    assert detector.scorer.detector.memories.whole is None, "visitors have detectors of their own"


def test_a_photograph_that_comes_later_asks_for_another_comparison(made, tmp_path):
    detector = made(method="batch")
    visitor = visiting(detector, tmp_path / "page", LIMITS)
    for seed in (1, 2):
        visitor.upload("photographs", png(seed), f"{seed}.png")
    visitor.ask("POST", "/learn", json={})
    before = scores(visitor)
    late = visitor.upload("photographs", png(3), "late.png")["number"]
    reported = visitor.ask("POST", f"/photographs/{late}/score", 422).json["error"]
    assert reported == "late.png: is not compared with the others yet"
    assert late not in visitor.ask("GET", "").json["compared"]
    state = visitor.ask("POST", "/learn", json={}).json
    assert late in state["compared"] and all(one["score"] is None for one in state["photographs"])
    assert scores(visitor)[:2] != before
    visitor.ask("DELETE", f"/uploads/{late}")
    visitor.ask("POST", "/learn", json={})
    assert scores(visitor) == before


def test_their_own_bulk_gives_a_threshold_which_regions_follow(made, tmp_path):
    visitor = visiting(made(method="batch"), tmp_path / "page", LIMITS)
    for seed in range(9):
        visitor.upload("photographs", png(seed % 8, spot=seed == 8), f"{seed}.png")
    visitor.ask("POST", "/learn", json={})
    visitor.ask("PUT", "/threshold", 422, json={"rate": 0.05})
    found = np.array(scores(visitor))
    before = visitor.ask("GET", "").json
    state = visitor.ask("PUT", "/threshold", json={"rate": 0.05}).json
    assert state["threshold"]["score"] == batch_threshold(found, found, 0.05).score and state["rate"] == 0.05
    assert "transductive" in state["threshold"]["source"] and state["rates"]
    assert [one["regions"] for one in state["photographs"]] != [
        one["regions"] for one in before["photographs"]
    ]
    visitor.ask("PUT", "/threshold", 422, json={"rate": 2})
    archive, rows = visitor.results()
    assert [row["score"] for row in rows] == found.tolist()
    assert [row["anomalous"] for row in rows] == (found >= state["threshold"]["score"]).tolist()
    assert b"sees the test set" in archive.read("report.html")


def test_it_is_added_to_a_method_with_references(made, tmp_path):
    detector = made(method="nearest", with_batch=True)
    visitor = visiting(detector, tmp_path / "page", LIMITS)
    for seed in (1, 2):
        visitor.upload("references", png(seed), f"good {seed}.png")
    visitor.ask("POST", "/learn", 422, json={})
    for seed in (3, 4, 5):
        visitor.upload("photographs", png(seed), f"{seed}.png")
    state = visitor.ask("POST", "/learn", json={}).json
    plain, found = as_predicted(detector, tmp_path, (3, 4, 5), (1, 2))
    assert scores(visitor) == [one.score for one in found]
    assert state["threshold"]["score"] == plain.threshold.score


def test_a_saved_detector_compares_with_the_photographs_that_it_saw(made, tmp_path):
    plain, found = as_predicted(made(method="batch"), tmp_path, (1, 2, 3))
    plain.save(tmp_path / "saved.safetensors")
    visitor = visiting(AnomalyDetector.load(tmp_path / "saved.safetensors"), tmp_path / "page", LIMITS)
    state = visitor.ask("GET", "").json
    assert state["ready"] and not state["compares"]
    assert visitor.scored(png(2))["score"] == found[1].score


def test_the_page_names_what_is_compared_and_asks_for_no_references(made, tmp_path):
    for method, more, asks in (("batch", {}, False), ("nearest", {"with_batch": True}, True)):
        visitor = visiting(made(method=method, **more), tmp_path / f"page-{method}", LIMITS)
        text = visitor.client.get("/").text
        assert "They are compared with each other" in text and "1 MiB of disk for 10" in text
        assert ('aria-labelledby="references-title" hidden' in text) is not asks
    asked_for_none = visiting(made(method="batch"), tmp_path / "other", LIMITS)
    reported = asked_for_none.upload("references", png(1), expected=422)
    assert reported["error"].startswith("this method takes no references")
    number = asked_for_none.upload("photographs", png(1))["number"]
    asked_for_none.ask("POST", f"/photographs/{number}/reference", 422)
    text = visiting(made(method="nearest"), tmp_path / "plain", LIMITS).client.get("/").text
    assert "compared" not in text
