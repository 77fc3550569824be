"""What the page's server answers, to whom, and in which words."""

import re

import pytest

pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

from page.server import make_server  # noqa: E402
from tests.support.constants import ROOT  # noqa: E402
from tests.support.photographs import png  # noqa: E402
from tests.support.visitor import LIMITS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


SECRET = "correct horse battery"


@pytest.fixture
def guarded(detector, tmp_path):
    return make_server(detector, tmp_path, LIMITS, None, SECRET).test_client()


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


@pytest.mark.parametrize(
    "path", ["/", "/scripts/page.js", "/sessions", "/sessions/x", "/sessions?token=" + SECRET]
)
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


def test_who_comes_from_another_machine_reads_how_to_come(client):
    answer = client.get("/", base_url="http://station-7.plant.example:7860")
    assert answer.status_code == 403
    assert "ssh -L 7860:127.0.0.1:7860 USER@" in answer.json["error"]
    assert "--host ADDRESS --token SECRET" in answer.json["error"]


def test_other_sites_and_names_are_refused(client):
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


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b"", b"NaN", b"[]"])
def test_json_that_is_none_is_one_sentence(visitor, body):
    limit = {"headers": {"Content-Type": "application/json"}}
    for path in ("/learn", "/threshold"):
        method = "POST" if path == "/learn" else "PUT"
        assert visitor.ask(method, path, 422, data=body[:150_000], **limit).json["error"]


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


def test_an_error_nobody_expected_is_one_sentence(visitor, monkeypatch, logged):
    visitor.fitted(1)
    number = visitor.upload("photographs", png(2))["number"]
    monkeypatch.setattr("page.findings.Photograph.open", lambda self, grey=None: 1 / 0)
    assert "ZeroDivisionError" in visitor.ask("POST", f"/photographs/{number}/score", 500).json["error"]
    assert "could not answer POST" in logged()
    monkeypatch.setattr("page.findings.Photograph.open", lambda *_: (_ for _ in ()).throw(MemoryError()))
    assert "not enough memory" in visitor.ask("POST", f"/photographs/{number}/score", 507).json["error"]
    monkeypatch.undo()
    visitor.ask("POST", f"/photographs/{number}/score")


def test_headers_and_page(detector, tmp_path, monkeypatch):
    facts = [("Method", "nearest <b>"), ("References", "0")]
    monkeypatch.setattr("page.server.detector_facts", lambda _: facts)
    client = make_server(detector, tmp_path, LIMITS).test_client()
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert (
        answer.headers["X-Content-Type-Options"] == "nosniff"
        and answer.headers["Cache-Control"] == "no-store"
    )
    assert "nearest &lt;b&gt;" in answer.text and not re.search(r"(src|href)=.https?:", answer.text)
    assert "<dt>References" not in answer.text, "they change while it is open"
    assert (
        client.get("/page.css").mimetype == "text/css"
        and client.get("/scripts/page.js").mimetype == "text/javascript"
    )


def test_the_page_has_the_words_of_its_parts(visitor, client):
    state = visitor.fitted(1, 2)
    assert state["trust"].startswith("From 2 references: ") and "--" not in state["trust"]
    assert "Add calibration images" in state["trust"]
    text = client.get("/").text
    script = "".join(path.read_text() for path in (ROOT / "page" / "scripts").glob("*.js"))
    assert 'data-kind="calibration"' in text and "Normal images that are no references" in text
    assert "This is a normal image" in text and 'id="trust"' in text
    assert "good part" not in (text + script).lower()
    assert "photo.reason" in script and "state.trust" in script
