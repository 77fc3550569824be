"""Several visitors of the page: places, files and locks of each."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from data.images import open_image
from fdsl.api import AnomalyDetector, Prediction

pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

from page.collection import Collection  # noqa: E402
from page.scratch import PREFIX, scratch_folder  # noqa: E402
from page.server import make_server  # noqa: E402
from page.visitors import Visitors  # noqa: E402
from tests.support.photographs import png  # noqa: E402
from tests.support.visitor import LIMITS, Visitor  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


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
        closed, uploads = False, SimpleNamespace(is_empty=False)

        def __init__(self, folder):
            self.folder = folder

        def close(self):
            self.closed = True

    monkeypatch.setattr("page.visitors.MOST_SESSIONS", 2)
    visitors = Visitors(Stub, tmp_path)
    first, second = visitors.new(), visitors.new()
    recent, gone = visitors[first], visitors[second]
    assert visitors[first] is recent
    with pytest.raises(Exception, match="2 visitors are here already"):
        visitors.new()
    monkeypatch.setattr("page.visitors.IDLE_SECONDS", 0)
    visitors.new()
    assert gone.closed and not recent.closed
    with pytest.raises(KeyError):
        visitors[second]


def test_new_visitors_shut_nobody_out(client, visitor):
    visitor.upload("references", png(1))
    for _ in range(100):
        assert client.post("/sessions").status_code == 200
    assert len(visitor.ask("GET", "").json["references"]) == 1


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


def test_fits_that_wait_leave_threads_for_pages(detector, tmp_path, monkeypatch):
    from page import fit, serve_page, server

    assert serve_page.THREADS >= server.WAITING + 4
    monkeypatch.setattr(server, "WAITING", 3)
    visitors = []
    page = make_server(detector, tmp_path / "more", LIMITS).test_client()
    (tmp_path / "more").mkdir()
    for seed in range(4):
        visitors.append(Visitor(page))
        visitors[-1].upload("references", png(seed))
    fit.MODEL.acquire()
    try:
        with ThreadPoolExecutor(4) as pool:

            def learn(visitor):
                with page.application.test_client() as own:
                    return own.post(f"{visitor.base}/learn", json={}).status_code

            fits = [pool.submit(learn, visitor) for visitor in visitors]
            deadline = time.monotonic() + 10
            while not any(one.done() for one in fits) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert page.get("/").status_code == 200 and visitors[0].ask("GET", "").json["fitted"] == []
            fit.MODEL.release()
            codes = sorted(one.result() for one in fits)
    finally:
        if fit.MODEL.locked():
            fit.MODEL.release()
    assert codes == [200, 200, 200, 503]
    assert page.post(f"{visitors[0].base}/learn", json={}).status_code == 200


def test_regions_are_drawn_while_others_look(client, visitor, monkeypatch):
    visitor.fitted(1, 2)
    visitor.scored(png(3, True))
    for seed in (11, 12, 13):
        visitor.upload("calibration", png(seed))
    name = visitor.base.rpartition("/")[2]
    session = client.application.extensions["visitors"][name]
    drawing_now, go_on, plain = threading.Event(), threading.Event(), Prediction.regions

    def slowly(self):
        drawing_now.set()
        assert go_on.wait(20)
        return plain.__get__(self)

    monkeypatch.setattr(Prediction, "regions", property(slowly))
    session.calibrate(0.05)
    with ThreadPoolExecutor() as pool:
        looking = pool.submit(session.state)
        try:
            assert drawing_now.wait(20)
            assert pool.submit(lambda: session.uploads.is_empty).result(timeout=5) is False
        finally:
            go_on.set()
        assert looking.result()["photographs"][0]["regions"]


def test_a_session_that_closes_while_a_reference_is_taken(visitor, client, monkeypatch):
    visitor.upload("references", png(1))
    plain = Collection._refuse_copy

    def closed_meanwhile(self, *given):
        client.delete(visitor.base)
        plain(self, *given)

    monkeypatch.setattr(Collection, "_refuse_copy", closed_meanwhile)
    answer = visitor.ask("POST", "/references", 404, query_string={"name": "b"}, data=png(1))
    assert "not here any more" in answer.json["error"]


@pytest.mark.parametrize(
    "method, path", [("POST", "/learn"), ("POST", "/calibrate"), ("GET", "/results.zip")]
)
def test_a_session_that_closes_while_its_files_are_read(visitor, client, monkeypatch, method, path):
    visitor.fitted(1, 2)
    visitor.scored(png(3))
    visitor.upload("calibration", png(4))
    plain = open_image

    def closed_meanwhile(*given, **more):
        client.delete(visitor.base)
        return plain(*given, **more)

    for module in ("page.uploads", "data.photographs"):
        monkeypatch.setattr(f"{module}.open_image", closed_meanwhile)
    answer = visitor.ask(method, path, 404, json={})
    assert answer.json["error"] == "it is not here any more; load the page again"


def test_nothing_is_left_of_a_detector_that_is_saved_while_its_session_closes(
    visitor, client, monkeypatch, tmp_path
):
    visitor.fitted(1)
    plain = AnomalyDetector.save

    def closed_meanwhile(*given):
        client.delete(visitor.base)
        plain(*given)

    monkeypatch.setattr(AnomalyDetector, "save", closed_meanwhile)
    client.get(f"{visitor.base}/detector.safetensors").close()
    assert not list(tmp_path.iterdir())


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
