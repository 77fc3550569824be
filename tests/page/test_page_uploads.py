"""What may be uploaded to the page, under which name, and how often."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

from page.uploads import plain_name  # noqa: E402
from tests.support.photographs import png  # noqa: E402
from tests.support.visitor import LIMITS  # noqa: E402
from utils.limits import allow_pixels  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


BAD_UPLOADS = {
    "text": (b"hello, I am no picture", "is not an image"),
    "html": (b"<html><script>alert(1)</script></html>", "is not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
    "pickle": (b"\x80\x04\x95", "is not an image"),
    "nothing": (b"", "is empty"),
    "cut": (png(1)[:900], "cut.png"),
    "huge": (png(1, size=(600, 500), kind="JPEG"), "above the limit"),
}


@pytest.mark.parametrize("kind", ("references", "calibration", "photographs"))
@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_uploads_that_are_no_photographs(visitor, tmp_path, name, kind):
    content, sentence = BAD_UPLOADS[name]
    allow_pixels(250_000)
    reported = visitor.upload(kind, content, f"../../{name}.png", expected=422)
    assert (
        sentence in reported["error"]
        and reported["error"].startswith(f"{name}.png: ")
        and str(tmp_path) not in reported["error"]
    )
    assert visitor.ask("GET", "").json[kind] == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing is stored"


def test_uploads_that_are_too_large_or_too_many(visitor):
    assert "larger" in visitor.upload("photographs", b"x" * 200_001, expected=413)["error"]
    for _ in range(4):
        visitor.upload("photographs", png())
    assert "as many as this page holds" in visitor.upload("photographs", png(), expected=422)["error"]
    number = visitor.ask("GET", "").json["photographs"][0]["number"]
    visitor.ask("DELETE", f"/uploads/{number}")
    visitor.upload("photographs", png())
    visitor.ask("DELETE", f"/uploads/{number}", 404)


def test_uploads_at_once_are_never_more_than_there_are_places(client, visitor, monkeypatch):
    from page import collection

    plain = collection.receive

    def slow(*given):
        time.sleep(0.1)
        return plain(*given)

    monkeypatch.setattr(collection, "receive", slow)

    def upload(kind, seed):
        with client.application.test_client() as own:
            path = f"{visitor.base}/{kind}"
            return own.post(path, query_string={"name": f"{seed}.png"}, data=png(seed)).status_code

    with ThreadPoolExecutor(8) as pool:
        for kind, most, first in (("references", 3, 0), ("calibration", 4, 20), ("photographs", 4, 0)):
            seeds = range(first, first + 8)
            codes = list(pool.map(lambda seed, kind=kind: upload(kind, seed), seeds))
            assert codes.count(200) == most == len(visitor.ask("GET", "").json[kind]), codes
    visitor.ask("DELETE", "/uploads/1")
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: upload("references", 50), range(8)))
    assert codes.count(200) == 1, "the same reference at once is stored once"


@pytest.mark.parametrize(
    "name",
    (
        "../../../etc/passwd",
        "..\\..\\boot.ini",
        "/etc/shadow",
        "a\0b.png",
        "x" * 5000,
        "",
        "..",
        "<img src=x onerror=alert(1)>.png",
        "=cmd|' /C calc'!A0.png",
        "new\nline.png",
        "\u202egnp.png",
    ),
)
def test_names_are_labels_and_never_paths(visitor, tmp_path, name):
    visitor.fitted(1)
    row = visitor.scored(png(2, True), name)
    assert "/" not in row["name"] and 0 < len(row["name"]) <= 200 and row["name"].isprintable()
    session = tmp_path / visitor.base.split("/")[-1]
    assert sorted(path.name for path in session.iterdir()) == ["1.upload", "2.upload"]
    assert [path.name for path in tmp_path.iterdir()] == [session.name]
    archive, _ = visitor.results()
    for member in archive.namelist():
        assert not Path(member).is_absolute() and ".." not in Path(member).parts
    report = archive.read("report.html").decode()
    assert "<img src=x" not in report
    cell = archive.read("scores.csv").decode().splitlines()[1]
    assert not cell.startswith(("=", "+", "-", "@"))


def test_names_are_displayed_without_their_folders():
    assert plain_name("C:\\photos\\a b.png") == "a b.png" and plain_name("   ") == "photograph"
    assert replace(LIMITS, references=1).references == 1


def test_pictures_are_small_jpegs(visitor, client):
    visitor.fitted(1, 2)
    row = visitor.scored(png(3, True, (400, 300), "JPEG"))
    for kind in ("photo", "heat"):
        picture = Image.open(io.BytesIO(visitor.ask("GET", f"/uploads/{row['number']}/{kind}.jpg").data))
        assert picture.format == "JPEG" and picture.size == (400, 300)
    visitor.ask("GET", "/uploads/1/heat.jpg", 404)
    visitor.ask("GET", "/uploads/99/photo.jpg", 404)


def test_a_mask_beside_its_photograph_is_no_photograph(visitor):
    visitor.upload("photographs", png(1), "7.png")
    refused = visitor.upload("photographs", png(2), "7_GT.png", 422)["error"]
    assert "7_GT.png: is called as the mask of 7.png" in refused
    visitor.upload("references", png(1), "good.png")
    visitor.upload("references", png(2), "mask_good.png", 422)
    assert visitor.upload("photographs", png(3), "8_mask.png")["name"] == "8_mask.png"


def test_the_same_reference_twice_is_refused_and_changes_nothing(visitor):
    """It would be scored by itself: the threshold would be far too high."""
    state = visitor.fitted(1, 2)
    assert (
        visitor.upload("references", png(2), "again.png", 422)["error"]
        == "again.png: is among the references already"
    )
    again = visitor.ask("POST", "/learn", json={"rotations": 1, "rate": 0.01}).json
    assert again["threshold"] == state["threshold"]


def test_the_same_normal_image_is_in_one_place_once(visitor):
    visitor.upload("references", png(1))
    visitor.upload("calibration", png(2))
    assert "among the references" in visitor.upload("calibration", png(1), expected=422)["error"]
    for kind in ("references", "calibration"):
        assert "among the calibration images" in visitor.upload(kind, png(2), expected=422)["error"]
    for seed in (3, 4, 5):
        visitor.upload("calibration", png(seed))
    refused = visitor.upload("calibration", png(6), expected=422)["error"]
    assert "4 calibration images are as many as this page holds" in refused
    assert "no reference yet" in visitor.ask("POST", "/calibrate", 422, json={}).json["error"]
    for asked in ({"rate": 0}, {"rate": "x"}, {"rate": None}, {"rate": 1.5}):
        assert (
            "target false-positive rate" in visitor.ask("POST", "/calibrate", 422, json=asked).json["error"]
        )
