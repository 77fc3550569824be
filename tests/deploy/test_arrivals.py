"""Files of a watched folder as they come to rest."""

import os
import threading
import time
from types import SimpleNamespace

import pytest

from utils.errors import DataError

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")

from deploy.watch import PATIENCE, Arrivals, arriving  # noqa: E402


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def watched(tmp_path):
    """A folder, its arrivals, and the clock that they go by."""
    clock = Clock()
    (tmp_path / "camera").mkdir()
    return tmp_path / "camera", Arrivals(tmp_path / "camera", set(), 2.0, clock=clock), clock


def at_rest(arrivals):
    return [one.name for one in arrivals.at_rest()]


def test_a_file_is_at_rest_when_it_has_not_changed_for_a_while(watched):
    camera, arrivals, clock = watched
    (camera / "a.png").write_bytes(b"1")
    assert at_rest(arrivals) == [] and arrivals.waiting == 1
    clock.now = 1.9
    (camera / "a.png").write_bytes(b"12")  # it grows
    assert at_rest(arrivals) == []
    clock.now = 3.0
    assert at_rest(arrivals) == []
    clock.now = 4.0
    (one,) = arrivals.at_rest()
    assert (one.name, one.final) == ("a.png", False) and arrivals.is_unchanged(one)
    (camera / "a.png").write_bytes(b"123")
    assert not arrivals.is_unchanged(one)
    assert at_rest(arrivals) == []
    clock.now = 6.0
    (one,) = arrivals.at_rest()
    arrivals.finish(one)
    assert at_rest(arrivals) == [] and arrivals.waiting == 0
    os.utime(camera / "a.png", (5, 5))  # written anew under its name: another photograph
    assert at_rest(arrivals) == []
    clock.now = 8.0
    assert at_rest(arrivals) == ["a.png"]


def test_files_at_rest_come_by_their_time(watched):
    camera, arrivals, clock = watched
    for name, modified in (("b.png", 20), ("a.png", 30), ("10.png", 10), ("2.png", 10), (".hidden.png", 1)):
        (camera / name).write_bytes(b"1")
        os.utime(camera / name, (modified, modified))
    at_rest(arrivals)
    clock.now = 2.0
    assert at_rest(arrivals) == ["2.png", "10.png", "b.png", "a.png"]


def test_a_file_that_cannot_be_read_is_tried_less_and_less_often_and_then_given_up(watched):
    camera, arrivals, clock = watched
    (camera / "a.png").write_bytes(b"1")
    (camera / "empty.png").write_bytes(b"")
    tries = []
    while clock.now < 60:
        for one in arrivals.at_rest():
            tries.append((one.name, clock.now, one.final))
            (arrivals.finish if one.final else arrivals.postpone)(one)
        clock.now += 0.5
    assert [moment for name, moment, _ in tries if name == "a.png"] == [2.0, 4.0, 8.0, 16.0, PATIENCE]
    assert [one for one in tries if one[2]] == [("a.png", PATIENCE, True), ("empty.png", PATIENCE, True)]


def test_who_asks_it_to_end_waits_neither_for_the_pause_nor_for_the_files_at_rest(monkeypatch):
    monkeypatch.setattr("deploy.watch.PAUSE", 60)
    asked, begun = threading.Event(), time.monotonic()
    threading.Timer(0.2, asked.set).start()
    assert list(arriving(SimpleNamespace(at_rest=list, waiting=0), None, asked)) == []
    assert asked.is_set() and time.monotonic() - begun < 20
    asked.clear()
    arrived = arriving(SimpleNamespace(at_rest=lambda: ["a.png", "b.png"], waiting=2), None, asked)
    assert next(arrived) == "a.png"
    asked.set()
    assert list(arrived) == []


def test_a_folder_that_is_gone_and_comes_back_repeats_nothing(watched):
    camera, arrivals, clock = watched
    (camera / "a.png").write_bytes(b"1")
    at_rest(arrivals)
    clock.now = 2.0
    arrivals.finish(*arrivals.at_rest())
    camera.rename(camera.with_name("away"))
    with pytest.raises(DataError, match="camera"):
        arrivals.at_rest()
    camera.with_name("away").rename(camera)
    assert at_rest(arrivals) == []
    clock.now = 10.0
    assert at_rest(arrivals) == []
