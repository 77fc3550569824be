"""The page's server: what it takes, what it refuses, and that it says what predict.py says."""

import io
import json
import re
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fdsl.api import AnomalyDetector, Prediction
from fdsl.regions import regions_of
from fdsl.report import drawing

pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

from page.server import Visitors, make_server  # noqa: E402
from page.session import Limits, Session  # noqa: E402
from page.uploads import PREFIX, plain_name, scratch_folder  # noqa: E402
from tests.support.detectors import small_detector  # noqa: E402
from tests.support.photographs import png  # noqa: E402
from tests.support.visitor import Visitor  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = Limits(file_bytes=200_000, max_pixels=250_000, references=3, photographs=4)


@pytest.fixture(scope="module")
def detector(tiny_configs):
    return small_detector(tiny_configs)


@pytest.fixture
def client(detector, tmp_path):
    return make_server(detector, tmp_path, LIMITS, [("Method", "nearest <b>")]).test_client()


@pytest.fixture
def visitor(client):
    return Visitor(client)


SECRET = "correct horse battery"


@pytest.fixture
def guarded(detector, tmp_path):
    return make_server(detector, tmp_path, LIMITS, [], None, SECRET).test_client()


def test_who_knows_the_secret_is_let_in_from_anywhere(guarded):
    away = {"base_url": "http://station-7.plant.example:7860"}
    answer = guarded.get("/", query_string={"token": SECRET}, **away)
    assert (
        answer.status_code == 302 and answer.headers["Location"] == "/" and SECRET not in str(answer.headers)
    )
    assert all(part in answer.headers["Set-Cookie"] for part in ("HttpOnly", "SameSite=Lax"))
    assert guarded.get("/", **away).status_code == 200
    own = {"Origin": "https://station-7.plant.example:7860"}  # as a proxy that speaks TLS has it
    assert guarded.post("/sessions", headers=own, **away).status_code == 200
    for strange in (
        {"Origin": "https://elsewhere.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
    ):
        assert guarded.post("/sessions", headers=strange, **away).status_code == 403


@pytest.mark.parametrize("path", ["/", "/page.js", "/sessions", "/sessions/x", "/sessions?token=" + SECRET])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Cookie": "fdsl=" + "0" * 64},
        {"Cookie": "fdsl=\xe9"},
        {"Cookie": f"fdsl={SECRET}"},
    ],
)
def test_nobody_else_is(guarded, path, headers):
    for method in ("GET", "POST"):
        answer = guarded.open(path, method=method, headers=headers)
        assert answer.status_code == 403 and "has to know its secret" in answer.json["error"]
        assert SECRET not in answer.text


def test_a_program_brings_the_secret_as_a_bearer(guarded):
    headers = {"Authorization": f"Bearer {SECRET}"}
    name = guarded.post("/sessions", headers=headers).json["name"]
    assert guarded.get(f"/sessions/{name}", headers=headers).status_code == 200


def test_who_comes_from_another_machine_is_told_the_way(client):
    answer = client.get("/", base_url="http://station-7.plant.example:7860")
    assert answer.status_code == 403
    assert "ssh -L 7860:127.0.0.1:7860 USER@" in answer.json["error"]
    assert "--host ADDRESS --token SECRET" in answer.json["error"]


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b"", b"NaN", b"[]"])
def test_json_that_is_none_is_one_sentence(visitor, body):
    limit = {"headers": {"Content-Type": "application/json"}}
    for path in ("/learn", "/threshold"):
        method = "POST" if path == "/learn" else "PUT"
        assert visitor.ask(method, path, 422, data=body[:150_000], **limit).json["error"]


def test_a_session_that_closes_while_a_reference_is_taken(visitor, client, monkeypatch):
    visitor.upload("references", png(1))
    plain = Session._refuse_known

    def closed_meanwhile(self, *given):
        client.delete(visitor.base)
        plain(self, *given)

    monkeypatch.setattr(Session, "_refuse_known", closed_meanwhile)
    answer = visitor.ask("POST", "/references", 404, query_string={"name": "b"}, data=png(1))
    assert "not here any more" in answer.json["error"]


def test_it_says_what_the_detector_says(visitor, detector, tmp_path):
    state = visitor.fitted(1, 2, rotations=2, rate=0.05)
    reported = [visitor.scored(png(3, spot), f"{spot}.png") for spot in (False, True)]
    plain = detector.another()
    plain.fit([Image.open(io.BytesIO(png(seed))) for seed in (1, 2)], rotations=2, false_alarm_rate=0.05)
    found = plain.predict([Image.open(io.BytesIO(png(3, spot))) for spot in (False, True)])
    assert state["threshold"]["score"] == plain.threshold.score and state["rate"] == 0.05
    assert [row["score"] for row in reported] == [one.score for one in found]
    assert reported[1]["score"] > reported[0]["score"] and reported[1]["regions"]
    assert not detector.ready, "visitors have detectors of their own"


def test_the_references_may_choose_how_often_they_are_rotated(visitor, detector, tmp_path, monkeypatch):
    state = visitor.fitted(1, 2, rotations="auto")
    plain = detector.another()
    plain.fit([Image.open(io.BytesIO(png(seed))) for seed in (1, 2)], rotations="auto")
    assert state["rotations"] == "auto" and state["rotated"] == plain.config.rotations
    assert state["threshold"]["score"] == plain.threshold.score
    visitor.ask("POST", "/learn", json={"rotations": 1})
    assert visitor.ask("GET", "").json["rotations"] == 1
    client = make_server(detector, tmp_path / "other", LIMITS, [], "auto").test_client()
    (tmp_path / "other").mkdir()
    assert Visitor(client).ask("GET", "").json["rotations"] == "auto"
    limits = replace(LIMITS, references=7)
    many = Visitor(make_server(detector, tmp_path / "other", limits, []).test_client())
    for seed in range(7):
        many.upload("references", png(seed))
    monkeypatch.setattr("fdsl.references.rotation.rotation_gain", lambda *_: 1.0)
    assert many.ask("POST", "/learn", json={"rotations": "auto"}).json["rotated"] == 1
    assert visitor.ask("POST", "/learn", json={"rotations": "auto"}).json["rotated"] == 8
    refusal = many.ask("POST", "/learn", 422, json={"rotations": 8}).json["error"]
    assert "7 references with 8 rotated copies each are more than 48" in refusal


def test_the_same_reference_twice_is_refused_and_changes_nothing(visitor):
    """It would be scored by itself: the threshold would be far too high."""
    state = visitor.fitted(1, 2)
    assert (
        visitor.upload("references", png(2), "again.png", 422)["error"]
        == "again.png: is among the references already"
    )
    again = visitor.ask("POST", "/learn", json={"rotations": 1, "rate": 0.01}).json
    assert again["threshold"] == state["threshold"]


def test_results_are_those_of_predict(visitor):
    visitor.fitted(1, 2)
    scores = [
        visitor.scored(png(seed, spot), "same name.png")["score"] for seed, spot in ((3, False), (4, True))
    ]
    middle = sum(scores) / 2
    assert (
        visitor.ask("PUT", "/threshold", json={"score": middle}).json["threshold"]["source"] == "set by hand"
    )
    archive = zipfile.ZipFile(io.BytesIO(visitor.ask("GET", "/results.zip").data))
    rows = [json.loads(line) for line in archive.read("scores.jsonl").splitlines()]
    assert [row["image"] for row in rows] == ["same name.png", "same name (2).png"]
    assert [row["score"] for row in rows] == scores and [row["anomalous"] for row in rows] == [False, True]
    assert rows[1]["boxes"] and not rows[0]["boxes"] and all(row["threshold"] == middle for row in rows)
    assert {"scores.csv", "report.html", "contact_sheet.jpg", "config.json"} <= set(archive.namelist())
    for row in rows:
        height, width = drawing.panel_size(36, 44, drawing.INSPECTION_SIDE)
        picture = Image.open(io.BytesIO(archive.read(row["picture"])))
        assert picture.size == (2 * width + drawing.PANEL_GAP, height + drawing.CAPTION_HEIGHT)


LEFT = {"points": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]], "ignored": False}


def test_a_region_of_interest_that_is_drawn_counts_and_is_saved(visitor, tmp_path):
    state = visitor.fitted(1, 2, shapes=[LEFT])
    assert state["shapes"] == [LEFT]
    file = tmp_path / "part.safetensors"
    file.write_bytes(visitor.ask("GET", "/detector.safetensors").data)
    found = AnomalyDetector.load(file, device="cpu").predict(Image.open(io.BytesIO(png(5, True))))
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


def test_small_regions_are_left_out_by_min_area(detector, tmp_path):
    other = detector.another()
    assert visited(detector, tmp_path / "all").scored(png(4, True))["regions"]
    other.min_area = 10**6
    assert visited(other, tmp_path / "large").scored(png(4, True))["regions"] == []


def visited(detector, folder):
    """A visitor whose page is fitted to two references."""
    folder.mkdir()
    visitor = Visitor(make_server(detector, folder, LIMITS, []).test_client())
    visitor.fitted(1, 2)
    return visitor


def test_photographs_that_no_longer_look_like_the_references_are_reported(detector, tmp_path, monkeypatch):
    """The last so many as a whole, as predict.py reports them, with one that shows it."""
    monkeypatch.setattr("page.session.WINDOW", 2)
    visitor = visited(detector, tmp_path / "drift")
    for seed in (3, 4):
        visitor.scored(png(seed), f"{seed}.png")
    dark = io.BytesIO()
    Image.open(io.BytesIO(png(5))).point(lambda value: int(0.8 * value)).save(dark, "PNG")
    visitor.scored(dark.getvalue(), "dark.png")
    assert visitor.ask("GET", "").json["drift"] == []
    number = visitor.scored(dark.getvalue(), "darker.png")["number"]
    changes = visitor.ask("GET", "").json["drift"]
    assert any("last 2 photographs are darker than the references" in one["sentence"] for one in changes)
    assert {one["name"] for one in changes} <= {"dark.png", "darker.png"}
    assert visitor.ask("DELETE", f"/uploads/{number}").json["drift"] == []


def test_how_far_it_is_is_heard_while_it_fits(detector, tmp_path, monkeypatch):
    heard = []
    noted = property(lambda self: heard[-1] if heard else "", lambda self, words: heard.append(words))
    monkeypatch.setattr(Session, "progress", noted, raising=False)
    visitor = visited(detector, tmp_path / "page")
    assert {"encoding references, 0 of 2", "encoding references, 1 of 2"} <= set(heard) and heard[-1] == ""
    visitor.upload("calibration", png(7))
    visitor.ask("POST", "/calibrate", json={})
    assert heard[-2:] == ["calibration images, 0 of 1", ""]
    heard.append("images, 3 of 4")
    assert visitor.ask("GET", "/progress").json == {"progress": "images, 3 of 4"}


def test_a_saved_detector_gives_the_same_scores(visitor, tmp_path):
    visitor.fitted(1, 2)
    score = visitor.scored(png(5, True))["score"]
    file = tmp_path / "part.safetensors"
    file.write_bytes(visitor.ask("GET", "/detector.safetensors").data)
    assert (
        AnomalyDetector.load(file, device="cpu").predict(Image.open(io.BytesIO(png(5, True)))).score == score
    )


def test_a_new_lesson_asks_for_new_scores(visitor):
    visitor.fitted(1)
    before = visitor.scored(png(3, True))
    visitor.ask("DELETE", "/uploads/1")
    state = visitor.fitted(2)
    assert state["photographs"][0]["score"] is None
    after = visitor.ask("POST", f"/photographs/{before['number']}/score").json
    assert after["score"] != before["score"]
    again = visitor.ask("PUT", "/threshold", json={"rate": 0.2}).json
    assert again["threshold"]["score"] < state["threshold"]["score"] and again["rate"] == 0.2


def test_pictures_are_small_jpegs(visitor, client):
    visitor.fitted(1, 2)
    row = visitor.scored(png(3, True, (400, 300), "JPEG"))
    for kind in ("photo", "heat"):
        picture = Image.open(io.BytesIO(visitor.ask("GET", f"/uploads/{row['number']}/{kind}.jpg").data))
        assert picture.format == "JPEG" and picture.size == (400, 300)
    visitor.ask("GET", "/uploads/1/heat.jpg", 404)
    visitor.ask("GET", "/uploads/99/photo.jpg", 404)


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
    reported = visitor.upload(kind, content, f"../../{name}.png", expected=422)
    assert (
        sentence in reported["error"]
        and reported["error"].startswith(f"{name}.png: ")
        and str(tmp_path) not in reported["error"]
    )
    assert visitor.ask("GET", "").json[kind] == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing is kept"


def test_uploads_that_are_too_large_or_too_many(visitor):
    assert "larger" in visitor.upload("photographs", b"x" * 200_001, expected=413)["error"]
    for _ in range(4):
        visitor.upload("photographs", png())
    assert "as many as this page holds" in visitor.upload("photographs", png(), expected=422)["error"]
    number = visitor.ask("GET", "").json["photographs"][0]["number"]
    visitor.ask("DELETE", f"/uploads/{number}")
    visitor.upload("photographs", png())
    visitor.ask("DELETE", f"/uploads/{number}", 404)


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
    archive = zipfile.ZipFile(io.BytesIO(visitor.ask("GET", "/results.zip").data))
    for member in archive.namelist():
        assert not Path(member).is_absolute() and ".." not in Path(member).parts
    report = archive.read("report.html").decode()
    assert "<img src=x" not in report
    cell = archive.read("scores.csv").decode().splitlines()[1]
    assert not cell.startswith(("=", "+", "-", "@"))


def test_what_is_asked_in_vain(visitor, client):
    visitor.ask("POST", "/learn", 422, json={})
    assert "no references" in visitor.ask("GET", "/detector.safetensors", 422).json["error"]
    assert "no photograph is scored" in visitor.ask("GET", "/results.zip", 422).json["error"]
    visitor.upload("references", png(1))
    for asked in (
        {"rate": 0},
        {"rate": 1.0},
        {"rate": "x"},
        {"rotations": 0},
        {"rotations": 1000},
        {"rotations": 1.5},
        {"rotations": True},
        {"rotations": "8"},
        {"rotations": ["auto"]},
        {"rate": None},
        {"rate": True},
    ):
        visitor.ask("POST", "/learn", 422, json=asked)
    for body in (b"", b"[]", b"{", b"null"):
        visitor.ask("POST", "/learn", 422, data=body)
    visitor.fitted(2)
    for asked in ({}, {"score": "1"}, {"score": None}, {"rate": 2}, {"rate": [1]}):
        visitor.ask("PUT", "/threshold", 422, json=asked)
    for body in (b'{"score": NaN}', b'{"score": 1e999}'):
        visitor.ask("PUT", "/threshold", 422, data=body)
    number = visitor.upload("photographs", b"P6 1 1 255 abc", "p.ppm")["number"]
    visitor.ask("POST", f"/photographs/{number}/score")
    for path in (
        "/nothing",
        "/page.html.j2",
        "/../app.py",
        "/sessions/",
        "/sessions/unknown",
        "/sessions/unknown/results.zip",
    ):
        assert client.get(path).status_code in (404, 405), path


def test_other_sites_and_names_are_turned_away(client):
    here = {"Host": "127.0.0.1:7860"}
    assert client.post("/sessions", headers={**here, "Origin": "http://127.0.0.1:7860"}).status_code == 200
    for headers in (
        {"Host": "evil.example"},
        {"Host": "192.168.1.5:7860"},
        {**here, "Origin": "http://evil.example"},
        {**here, "Origin": "null"},
        {**here, "Origin": "http://127.0.0.1:9999"},
        {**here, "Sec-Fetch-Site": "cross-site"},
    ):
        answer = client.post("/sessions", headers=headers)
        reported = "answers this machine alone" if len(headers) == 1 else "own requests alone"
        assert answer.status_code == 403 and reported in answer.json["error"], headers


def test_headers_and_page(client):
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert (
        answer.headers["X-Content-Type-Options"] == "nosniff"
        and answer.headers["Cache-Control"] == "no-store"
    )
    assert "nearest &lt;b&gt;" in answer.text and not re.search(r"(src|href)=.https?:", answer.text)
    assert (
        client.get("/page.css").mimetype == "text/css"
        and client.get("/page.js").mimetype == "text/javascript"
    )


def test_visitors_do_not_see_each_other(client):
    first, second = Visitor(client), Visitor(client)
    first.fitted(1)
    number = first.scored(png(2))["number"]
    second.ask("GET", f"/uploads/{number}/photo.jpg", 404)
    assert second.ask("GET", "").json["ready"] is False
    first.ask("DELETE", "")
    first.ask("GET", "", 404)


def test_leaving_removes_the_uploads(client, tmp_path):
    visitor = Visitor(client)
    visitor.fitted(1)
    assert list(tmp_path.iterdir())
    visitor.ask("DELETE", "")
    assert not list(tmp_path.iterdir())


def test_the_quietest_visitor_gives_way(tmp_path, monkeypatch):
    class Stub:
        closed = is_empty = False

        def __init__(self, folder):
            self.folder = folder

        def close(self):
            self.closed = True

    monkeypatch.setattr("page.server.MOST_SESSIONS", 2)
    visitors = Visitors(Stub, tmp_path)
    first, second = visitors.new(), visitors.new()
    kept, gone = visitors[first], visitors[second]
    assert visitors[first] is kept
    with pytest.raises(Exception, match="2 visitors are here already"):
        visitors.new()
    monkeypatch.setattr("page.server.IDLE_SECONDS", 0)
    visitors.new()
    assert gone.closed and not kept.closed
    with pytest.raises(KeyError):
        visitors[second]


def test_eight_visitors_at_once(client):
    answers = []

    def visit(number):
        with client.application.test_client() as own:
            visitor = Visitor(own)
            visitor.fitted(number, number + 100)
            answers.append([visitor.scored(png(50))["score"] for _ in range(3)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(8)))
    assert len(answers) == 8 and all(len(set(scores)) == 1 for scores in answers)
    assert len({scores[0] for scores in answers}) == 8, "each has references of its own"


def test_an_error_nobody_expected_is_one_sentence(visitor, monkeypatch, logged):
    visitor.fitted(1)
    number = visitor.upload("photographs", png(2))["number"]
    monkeypatch.setattr("page.session.Photograph.open", lambda self, grey=None: 1 / 0)
    assert "ZeroDivisionError" in visitor.ask("POST", f"/photographs/{number}/score", 500).json["error"]
    assert "could not answer POST" in logged()
    monkeypatch.setattr("page.session.Photograph.open", lambda *_: (_ for _ in ()).throw(MemoryError()))
    assert "not enough memory" in visitor.ask("POST", f"/photographs/{number}/score", 507).json["error"]
    monkeypatch.undo()
    visitor.ask("POST", f"/photographs/{number}/score")


def test_names_that_are_shown():
    assert plain_name("C:\\photos\\a b.png") == "a b.png" and plain_name("   ") == "photograph"
    assert replace(LIMITS, references=1).references == 1


def test_a_killed_pages_folder_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{PREFIX}left"
    left.mkdir()
    (left / "1.upload").write_bytes(b"secret")
    with scratch_folder() as folder:
        assert not left.exists() and folder.parent == tmp_path
        with scratch_folder() as other:
            assert folder.exists() and other != folder, "one that is in use stays"
        assert folder.exists() and not other.exists()
    assert list(tmp_path.iterdir()) == []


def test_links_that_others_laid_are_not_followed(tmp_path, monkeypatch):
    """In a shared /tmp anyone can make a folder or a link of our prefix."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_text("keep me too")
    (tmp_path / f"{PREFIX}link").symlink_to(home)
    trap = tmp_path / f"{PREFIX}trap"
    trap.mkdir()
    (trap / ".lock").symlink_to(precious)
    with scratch_folder():
        pass
    assert (
        precious.read_text() == "keep me"
        and (home / "file").read_text() == "keep me too"
        and not (home / ".lock").exists()
    )


def test_a_lesson_that_fails_changes_nothing(visitor, monkeypatch):
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
    other.fit([Image.open(io.BytesIO(png(1)))], false_alarm_rate=0.2)
    visitor = Visitor(make_server(other, tmp_path, LIMITS, []).test_client())
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
    assert "3 references are enough" in refused
    visitor.ask("POST", "/photographs/99/reference", 404)


def test_references_that_a_detector_carries_stay_beside_a_new_one(detector, tmp_path):
    """They appear as references, so that each can be removed; the lesson is that of all photographs."""
    other = detector.another()
    shown = [Image.open(io.BytesIO(png(seed))) for seed in (1, 2)]
    other.fit(shown, rotations=1)
    visitor = Visitor(make_server(other, tmp_path, LIMITS, []).test_client())
    row = visitor.scored(png(3, True), "alarm.png")
    state = visitor.ask("POST", f"/photographs/{row['number']}/reference").json
    assert [one["name"] for one in state["references"]] == [
        "photograph 1.png",
        "photograph 2.png",
        "alarm.png",
    ]
    visitor.fitted()
    other.add_references(Image.open(io.BytesIO(png(3, True))))
    score = visitor.ask("POST", f"/photographs/{row['number']}/score").json["score"]
    assert score == other.predict(Image.open(io.BytesIO(png(3, True)))).score


@pytest.mark.parametrize(
    "carried, taken, sentence",
    [((1, 2), 2, "is among the references already"), ((1, 2, 3), 4, "3 references are enough")],
)
def test_a_photograph_that_cannot_become_a_reference_changes_nothing(
    detector, tmp_path, carried, taken, sentence
):
    other = detector.another()
    other.fit([Image.open(io.BytesIO(png(seed))) for seed in carried], rotations=1)
    content = other.kept[-1].content if taken in carried else png(taken)
    visitor = Visitor(make_server(other, tmp_path, LIMITS, []).test_client())
    number = visitor.upload("photographs", content)["number"]
    before, files = visitor.ask("GET", "").json, sorted(tmp_path.rglob("*"))
    refused = visitor.ask("POST", f"/photographs/{number}/reference", 422).json["error"]
    assert sentence in refused
    assert visitor.ask("GET", "").json == before and sorted(tmp_path.rglob("*")) == files


def test_what_is_removed_meanwhile_is_left_out(visitor, tmp_path):
    visitor.fitted(1)
    rows = [visitor.scored(png(seed), f"{seed}.png") for seed in (2, 3)]
    next(tmp_path.rglob(f"{rows[0]['number']}.upload")).unlink()
    archive = zipfile.ZipFile(io.BytesIO(visitor.ask("GET", "/results.zip").data))
    assert [json.loads(line)["image"] for line in archive.read("scores.jsonl").splitlines()] == ["3.png"]
    visitor.ask("POST", f"/photographs/{rows[0]['number']}/score", 404)
    visitor.ask("GET", f"/uploads/{rows[0]['number']}/photo.jpg", 404)


def test_a_mask_beside_its_photograph_is_no_photograph(visitor):
    visitor.upload("photographs", png(1), "7.png")
    refused = visitor.upload("photographs", png(2), "7_GT.png", 422)["error"]
    assert "7_GT.png: is called as the mask of 7.png" in refused
    visitor.upload("references", png(1), "good.png")
    visitor.upload("references", png(2), "mask_good.png", 422)
    assert visitor.upload("photographs", png(3), "8_mask.png")["name"] == "8_mask.png"


def test_a_reference_removed_while_it_is_fitted_does_not_count_afterwards(visitor, monkeypatch):
    for seed in (1, 2):
        visitor.upload("references", png(seed))
    plain, lessons = AnomalyDetector.fit, []

    def fit(self, photos, **more):
        lessons.append(len(photos))
        if len(lessons) == 1:
            visitor.ask("DELETE", "/uploads/1")
        plain(self, photos, **more)

    monkeypatch.setattr(AnomalyDetector, "fit", fit)
    state = visitor.ask("POST", "/learn", json={}).json
    assert lessons == [2, 1] and state["fitted"] == [2]


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


CALIBRATION = (11, 12, 13)


def calibrated(visitor, *seeds, rate=0.05):
    for seed in seeds or CALIBRATION:
        visitor.upload("calibration", png(seed), f"normal {seed}.png")
    return visitor.ask("POST", "/calibrate", json={"rate": rate}).json


def images(*seeds):
    return [Image.open(io.BytesIO(png(seed))) for seed in seeds]


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
    found = plain.predict(Image.open(io.BytesIO(png(3))))
    assert state["threshold"] == {
        "score": plain.threshold.score,
        "level": plain.threshold.level,
        "source": plain.threshold.source,
    }
    assert "3 calibration images" in state["threshold"]["source"] and state["rate"] == 0.05
    assert state["calibrated"] == [one["number"] for one in state["calibration"]]
    for number in state["calibrated"]:
        assert visitor.ask("GET", f"/uploads/{number}/photo.jpg").mimetype == "image/jpeg"
    assert state["calibrationScores"] == 3 and state["trust"] == plain.normal.trust
    if row is not None:
        after = state["photographs"][0]
        assert after["score"] == row["score"] and after["normal_percentile"] != row["normal_percentile"]
    else:
        after = visitor.scored(png(3))
    assert after["score"] == found.score and after["normal_percentile"] == found.normal_percentile
    assert after["regions"] == [
        one.to_dict() for one in regions_of(found.anomaly_map, plain.threshold.level, found.min_area)
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
    file = tmp_path / "part.safetensors"
    file.write_bytes(visitor.ask("GET", "/detector.safetensors").data)
    saved = AnomalyDetector.load(file, device="cpu")
    assert saved.threshold.score == state["threshold"]["score"] and saved.normal.is_calibrated
    archive = zipfile.ZipFile(io.BytesIO(visitor.ask("GET", "/results.zip").data))
    (row,) = [json.loads(line) for line in archive.read("scores.jsonl").splitlines()]
    assert row["threshold"] == state["threshold"]["score"]


def test_a_detector_with_references_is_calibrated_without_others(detector, tmp_path):
    fitted = detector.another()
    fitted.fit(images(1, 2), false_alarm_rate=0.2)
    visitor = Visitor(make_server(fitted, tmp_path, LIMITS, []).test_client())
    start = visitor.ask("GET", "").json
    same = fitted.kept[0].content
    assert "among the references" in visitor.upload("calibration", same, expected=422)["error"]
    state = calibrated(visitor)
    assert "3 calibration images" in state["threshold"]["source"] and state["builtIn"] == 2
    for one in state["calibration"]:
        visitor.ask("DELETE", f"/uploads/{one['number']}")
    assert start["rate"] == 0.2 and visitor.ask("GET", "").json["rate"] == state["rate"]
    again = visitor.ask("PUT", "/threshold", json={"rate": 0.2}).json
    assert again["threshold"].pop("score") == start["threshold"].pop("score")  # the pixel threshold stays
    assert again | {"threshold": None} == start | {"threshold": None}


def test_regions_are_drawn_while_others_look(client, visitor, monkeypatch):
    visitor.fitted(1, 2)
    visitor.scored(png(3, True))
    for seed in CALIBRATION:
        visitor.upload("calibration", png(seed))
    name = visitor.base.rpartition("/")[2]
    session = client.application.extensions["visitors"][name]
    drawing_now, go_on, plain = threading.Event(), threading.Event(), Prediction.regions

    def slowly(self):
        drawing_now.set()
        assert go_on.wait(20)
        return plain.__get__(self)

    monkeypatch.setattr(Prediction, "regions", property(slowly))
    with ThreadPoolExecutor() as pool:
        calibrating = pool.submit(session.calibrate, 0.05)
        try:
            assert drawing_now.wait(20)
            seen = pool.submit(lambda: (session.is_empty, session.state())).result(timeout=5)
        finally:
            go_on.set()
        calibrating.result()
    assert seen[0] is False and seen[1]["calibrated"] == []
    assert session.state()["calibrated"] and session.state()["photographs"][0]["regions"]


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


def grey(value=128, size=(44, 36)):
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, "PNG")
    return file.getvalue()


def test_a_photograph_without_a_part_says_so(visitor):
    visitor.fitted(1, 2)
    row = visitor.scored(grey(), "empty.png")
    assert row["reason"] == "no part in the picture" and row["regions"] == []
    assert visitor.scored(png(3), "part.png")["reason"] == ""
    assert visitor.ask("PUT", "/threshold", json={"score": 5}).json["photographs"][0] == row
    archive = zipfile.ZipFile(io.BytesIO(visitor.ask("GET", "/results.zip").data))
    empty, part = [json.loads(line) for line in archive.read("scores.jsonl").splitlines()]
    assert empty["anomalous"] and empty["reason"] == row["reason"] and not part["anomalous"]


def test_calibration_images_without_a_part_do_not_count(visitor):
    before = visitor.fitted(1, 2, rate=0.05)
    visitor.upload("calibration", grey(), "empty.png")
    refused = visitor.ask("POST", "/calibrate", 422, json={}).json["error"]
    assert "no calibration image shows what the references show" in refused
    assert visitor.ask("GET", "").json["threshold"] == before["threshold"]
    state = calibrated(visitor)
    assert len(state["calibrated"]) == 4 and state["calibrationScores"] == 3


def test_the_page_has_the_words_of_its_parts(visitor, client):
    state = visitor.fitted(1, 2)
    assert state["trust"].startswith("From 2 references: ") and "--" not in state["trust"]
    assert "Add normal images as calibration images" in state["trust"]
    text, script = client.get("/").text, client.get("/page.js").text
    assert 'data-kind="calibration"' in text and "Normal images that are no references" in text
    assert "This is a normal image" in text and 'id="trust"' in text
    assert "good part" not in (text + script).lower()
    assert "photo.reason" in script and "state.trust" in script


def test_uploads_at_once_are_never_more_than_there_are_places(client, visitor, monkeypatch):
    from page import session

    plain = session.receive

    def slow(*given):
        time.sleep(0.1)
        return plain(*given)

    monkeypatch.setattr(session, "receive", slow)

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
    assert codes.count(200) == 1, "the same reference at once is kept once"


def test_lessons_that_wait_leave_threads_for_pages(detector, tmp_path, monkeypatch):
    from page import serve, server, session

    assert serve.THREADS >= server.WAITING + 4
    monkeypatch.setattr(server, "WAITING", 3)
    visitors = []
    page = make_server(detector, tmp_path / "more", LIMITS, []).test_client()
    (tmp_path / "more").mkdir()
    for seed in range(4):
        visitors.append(Visitor(page))
        visitors[-1].upload("references", png(seed))
    session.MODEL.acquire()
    try:
        with ThreadPoolExecutor(4) as pool:

            def learn(visitor):
                with page.application.test_client() as own:
                    return own.post(f"{visitor.base}/learn", json={}).status_code

            lessons = [pool.submit(learn, visitor) for visitor in visitors]
            deadline = time.monotonic() + 10
            while not any(lesson.done() for lesson in lessons) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert page.get("/").status_code == 200 and visitors[0].ask("GET", "").json["fitted"] == []
            session.MODEL.release()
            codes = sorted(lesson.result() for lesson in lessons)
    finally:
        if session.MODEL.locked():
            session.MODEL.release()
    assert codes == [200, 200, 200, 503]
    assert page.post(f"{visitors[0].base}/learn", json={}).status_code == 200


def test_new_visitors_shut_nobody_out(client, visitor):
    visitor.upload("references", png(1))
    for _ in range(100):
        assert client.post("/sessions").status_code == 200
    assert len(visitor.ask("GET", "").json["references"]) == 1
