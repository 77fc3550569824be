"""Frames of clips that OpenCV wrote, and of a camera that stands in for a real one."""

import cv2
import numpy as np
import pytest

from data import live
from data.live import Source
from tests.support.cameras import Camera, write_clip
from tests.support.photographs import texture
from utils.errors import DataError
from utils.sources import live_source
from utils.text import without_password

FRAMES = [texture(seed) for seed in range(20)]


@pytest.mark.parametrize(
    "every, taken", [(0, range(20)), (0.1, range(20)), (0.25, (0, 3, 5, 8, 10, 13, 15, 18))]
)
def test_a_clips_frames_by_its_own_time(tmp_path, every, taken):
    clip = write_clip(tmp_path / "a b.mp4", FRAMES)
    source = Source(str(clip), every)
    source.check()
    found = list(source.frames())
    assert [frame.name for frame in found] == [f"a b.mp4-{n:06d}-{n / 10:.3f}s" for n in taken]
    assert [frame.moment for frame in found] == [n * 10**8 for n in taken] and source.lost == ""
    first = found[0].pixels
    assert first.shape == (60, 80, 3) and first.dtype == np.uint8 and first.flags["C_CONTIGUOUS"]
    assert np.abs(first.astype(int) - FRAMES[0]).mean() < 12
    assert len({frame.digest for frame in found}) == len(found)


def test_colours_are_rgb(tmp_path):
    red = np.full((48, 64, 3), (200, 30, 30), np.uint8)
    (frame,) = Source(str(write_clip(tmp_path / "red.mp4", [red])), 1).frames()
    assert np.abs(frame.pixels.astype(int) - red).max() < 12


def test_a_camera_that_hangs_is_reported_and_its_frames_are_left_out(monkeypatch, logged):
    one, two, three = FRAMES[:3]
    monkeypatch.setattr(cv2, "VideoCapture", Camera([one, two, two, two, three, three, one]))
    source = Source("rtsp://line:secret@camera/1", 0)
    found = list(source.frames())
    assert [int(frame.name[-6:]) for frame in found] == [0, 1, 4, 6]
    assert all(frame.name.startswith("camera-2") for frame in found)
    assert all(np.array_equal(frame.pixels, pixels) for frame, pixels in zip(found, (one, two, three, one)))
    hung = [number for number in range(7) if f"-{number:06d} equals the frame before" in logged()]
    assert hung == [2, 5]
    assert "3 frame(s) of rtsp://...@camera/1 were repeated and not scored" in logged()
    assert source.lost.startswith("rtsp://...@camera/1: gives no more frames") and "secret" not in logged()


def test_a_camera_ends_when_it_is_asked_to_and_is_let_go(monkeypatch):
    camera = Camera(FRAMES, endless=True)
    monkeypatch.setattr(cv2, "VideoCapture", camera)
    source = Source("0", 0)
    frames = source.frames()
    assert next(frames).name.startswith("camera0-") and camera.given == 0
    source.stop.set()
    assert list(frames) == [] and source.lost == ""
    for _ in range(1000):
        if camera.released:
            break
        live.time.sleep(0.005)
    assert camera.released


def test_a_camera_that_gives_nothing_is_lost(monkeypatch):
    camera = Camera(FRAMES, endless=True)
    monkeypatch.setattr(camera, "retrieve", lambda: (False, None))
    monkeypatch.setattr(cv2, "VideoCapture", camera)
    monkeypatch.setattr(live, "PATIENCE", 0.1)
    source = Source("0", 0)
    assert list(source.frames()) == [] and "gives no more frames" in source.lost


@pytest.mark.parametrize("given", ["rtsp://line:secret@127.0.0.1:1/x", "/dev/null", "77", "no clip.mp4"])
def test_what_cannot_be_opened_is_one_sentence(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no clip.mp4").write_bytes(b"no clip")
    assert live_source([given]) == given
    with pytest.raises(DataError, match="OpenCV cannot open it") as refused:
        Source(given, 1).check()
    assert "secret" not in str(refused.value)


def test_what_is_no_live_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    assert live_source(["0", "photos/", "a.mp4", "x.png"]) is None
    assert live_source(["x.png", "1"]) == "1"


def test_a_password_is_left_out():
    assert without_password("rtsp://me:a%20b@10.0.0.7:554/x@y") == "rtsp://...@10.0.0.7:554/x@y"
    assert without_password("rtsp://10.0.0.7/x@y photos/a@b") == "rtsp://10.0.0.7/x@y photos/a@b"
