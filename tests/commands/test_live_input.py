"""predict.py on clips and cameras: rows as of photographs, endings, and what is refused."""

import json
import signal
import subprocess
import sys
import time

import cv2
import pytest

from tests.support.cameras import Camera, write_clip
from tests.support.constants import ROOT
from tests.support.photographs import texture
from tests.support.predictions import rows
from tests.support.small_runs import command, environment
from utils.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")

predict = command("predict")
FRAMES = [texture(seed, defect=seed == 43) for seed in range(40, 46)]
ADDRESS = "rtsp://line:secret@camera/1"


@pytest.fixture
def run(detector, tiny_configs, tmp_path):
    """Runs predict.py on an input; returns its exit code and its rows."""

    def with_flags(given, *more):
        code = predict.main(flags(detector, given, tmp_path / "out", tiny_configs, *more))
        return code, [json.loads(line) for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]

    return with_flags


def flags(detector, given, out, configs, *more):
    found = ["--detector", detector, "--input", given, "--output", out, "--model-config", configs]
    return [*map(str, found), "--device", "cpu", "--precision", "fp32", *more]


def test_a_clip_gives_the_rows_of_its_frames(run, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    code, found = run(clip, "--every", "0.2", "--save-maps", "--save-masks", "--exit-code")
    assert [row["image"] for row in found] == [f"clip.mp4-{n:06d}-{n / 10:.3f}s" for n in (0, 2, 4)]
    assert all((tmp_path / "out" / row[made]).is_file() for row in found for made in ("picture", "mask"))
    assert [row["image"] for row in rows(tmp_path / "out/scores.csv")] == [row["image"] for row in found]
    assert code == int(any(row["anomalous"] for row in found))
    assert "clip.mp4-000002" in (tmp_path / "out/report.html").read_text()


def test_frames_that_are_all_skipped_need_no_more_of_them(run, tmp_path, logged):
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    with pytest.raises(DataError, match=r"clip\.mp4: no frame was scored$"):
        run(clip, "--max-pixels", "10")
    assert "1 file(s) skipped" in logged() and "above the limit of 10 pixels" in logged()


def test_a_frame_scores_as_its_photograph(run, monkeypatch, detector, tmp_path):
    from PIL import Image

    monkeypatch.setattr(cv2, "VideoCapture", Camera(FRAMES))
    with pytest.raises(DataError, match="gives no more frames"):
        run("0", "--every", "0")
    live = [json.loads(line) for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(FRAMES):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    _, photographs = run(tmp_path / "photos", "--batch-size", "1")
    for name in ("score", "anomalous", "boxes", "regions", "normal_percentile"):
        assert [row[name] for row in live] == [row[name] for row in photographs]


def test_a_camera_goes_on_with_resume_and_its_password_is_kept_nowhere(run, monkeypatch, tmp_path, logged):
    for seeds in (FRAMES[:2], FRAMES[2:5]):
        monkeypatch.setattr(cv2, "VideoCapture", Camera(seeds))
        with pytest.raises(DataError, match="rtsp://...@camera/1: gives no more frames"):
            run(ADDRESS, "--every", "0", "--resume")
    found = rows(tmp_path / "out/scores.csv")
    assert len(found) == 5 and len({row["score"] for row in found}) == 5
    written = [file for file in (tmp_path / "out").rglob("*") if file.suffix in (".json", ".jsonl", ".html")]
    assert len(written) >= 3 and not any("secret" in file.read_text() for file in written)
    assert "secret" not in logged()


@pytest.mark.parametrize(
    "more, words",
    [
        (["--every", "2", "--input", "photos"], "--every is for a camera"),
        (["--input", "0", "photos"], "--input 0 is a camera, a stream or a clip: give it alone"),
        (["--input", "0", "--threshold", "batch"], "--threshold batch compares all test images"),
        (["--input", "0", "--workers", "2"], "--workers loads files"),
        (["--input", "clip.mp4", "--resume"], "--resume does not go with the clip clip.mp4"),
        (["--input", "0", "--every", "-1"], "-1 is not a number from 0"),
    ],
)
def test_what_does_not_go_together(detector, tmp_path, monkeypatch, capsys, more, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(SystemExit) as ended:
        predict.main(["--detector", str(detector), "--output", "out", *more])
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_without_opencv_it_is_a_missing_package(detector, monkeypatch, tmp_path):
    from data.live import Source
    from utils.command import explain

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError) as missing:
        Source("0", 1).check()
    assert explain(missing.value).startswith("The package cv2 is missing: activate the environment")


@pytest.mark.slow
@pytest.mark.parametrize("given", ["rtsp://line:secret@127.0.0.1:1/x", "/dev/null", "77"])
def test_a_camera_that_is_not_there_is_one_line(detector, tiny_configs, tmp_path, given):
    words = [sys.executable, "predict.py", *flags(detector, given, tmp_path / "out", tiny_configs)]
    ended = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    *before, last = ended.stderr.splitlines()
    assert ended.returncode == 2 and before == ["loading the image model ..."]
    assert last.startswith("error: ") and "OpenCV cannot open it" in last and "secret" not in last


ENDLESS = """
import itertools, runpy, sys, time
import cv2, numpy as np
class Camera:
    def __init__(self, *_): self.random = np.random.default_rng(0)
    isOpened = lambda self: True
    def grab(self): time.sleep(0.02); return True
    def retrieve(self): return True, self.random.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    def release(self): pass
cv2.VideoCapture = Camera
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], None, "__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_what_was_scored(detector, tiny_configs, tmp_path, number):
    out = tmp_path / "out"
    started = [sys.executable, "-c", ENDLESS, "predict.py", *flags(detector, "0", out, tiny_configs)]
    process = subprocess.Popen(
        [*started, "--every", "0.1"], cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    end, journal = time.monotonic() + 120, out / ".partial/rank0/rows.jsonl"
    while not (journal.is_file() and journal.read_text().count("\n") > 3):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    reported = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "Ending with what is scored" in reported
    assert len(rows(out / "scores.csv")) > 3 and (out / "report.html").is_file()
    assert not (out / ".partial").exists()
