"""deploy/inspect.py --watch: each photograph once, whole, in order, also after a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from fdsl.inspection import regions
from fdsl.report import drawing
from tests.support.constants import ROOT
from tests.support.exported import exported_to
from tests.support.photographs import draw, texture
from tests.support.predictions import rows, stored_row
from utils.errors import ConfigError, DataError
from utils.hot_regions import upsample

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

from deploy import pictures  # noqa: E402
from deploy.arrivals import PATIENCE, Arrivals, arriving  # noqa: E402
from deploy.boxes import mask_of  # noqa: E402
from deploy.graph import Graph  # noqa: E402
from deploy.journal import Journal, key  # noqa: E402


@pytest.fixture(scope="module")
def exported(place, tiny_configs, tmp_path_factory):
    """The ONNX file of a detector of the whole image."""
    return exported_to(tmp_path_factory.mktemp("watched"), place / "good", tiny_configs)


def started(exported, camera, out, *more):
    command = [sys.executable, str(ROOT / "deploy" / "inspect.py"), str(exported), "--watch", str(camera)]
    flags = ["--output", str(out), "--settle", "0.2", *more]
    return subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def names(out):
    """Of the rows that are whole."""
    lines = (out / "scores.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["image"] for line in lines if line.endswith("\n")]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def has_rows(out, count):
    return lambda: (out / "scores.jsonl").exists() and len(names(out)) >= count


@pytest.mark.slow
def test_each_photograph_has_one_row_also_after_a_kill_and_a_stop(exported, tmp_path):
    camera, out = tmp_path / "camera", tmp_path / "out"
    for number in (2, 10):
        draw(camera / f"{number}.png", number)
        os.utime(camera / f"{number}.png", (1000 + number, 1000 + number))
    first = started(exported, camera, out, "--pictures", "all")
    wait_for(has_rows(out, 2))
    first.kill()
    first.wait()
    with open(out / "scores.jsonl", "a") as file:
        file.write('{"image": "half')  # as a kill in the middle of a row leaves it
    (out / "scores.csv").write_text("half")
    second = started(exported, camera, out, "--pictures", "all", "--format", "json")
    draw(camera / "late/3.png", 3, defect=True)
    wait_for(has_rows(out, 3))
    second.send_signal(signal.SIGTERM)
    printed, reported = second.communicate(timeout=60)
    assert second.returncode == 143 and "2 photograph(s) are done already" in reported
    assert "the same command goes on" in reported and "1 photograph(s) scored" in reported
    assert [json.loads(line)["image"] for line in printed.splitlines()] == ["late/3.png"]
    assert names(out) == ["2.png", "10.png", "late/3.png"]
    table = rows(out / "scores.csv")
    assert [row["image"] for row in table] == names(out)
    assert all((out / row["picture"]).is_file() for row in table)
    third = started(exported, camera, out, "--stop-after", "0.5", "--pictures", "all")
    assert third.wait(60) == 0 and len(names(out)) == 3
    third.communicate()


@pytest.mark.slow
def test_a_file_that_is_still_written_is_waited_for(exported, tmp_path):
    camera, out = tmp_path / "camera", tmp_path / "out"
    draw(tmp_path / "whole.png", 1)
    content = (tmp_path / "whole.png").read_bytes()
    camera.mkdir()
    (camera / "slow.png").write_bytes(content[:200])
    (camera / "note.txt").write_text("no photograph")
    running = started(exported, camera, out)
    wait_for(lambda: (out / "scores.jsonl").exists())
    time.sleep(1.5)  # at rest, but not whole: a network drive stands still
    assert names(out) == []
    (camera / "slow.png").write_bytes(content)
    wait_for(has_rows(out, 1))
    running.send_signal(signal.SIGINT)
    _, reported = running.communicate(timeout=60)
    assert running.returncode == 130 and names(out) == ["slow.png"] and "skipped" not in reported
    assert not (out / "skipped.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--watch", "nowhere", "--output", "out"], "--watch nowhere is no folder"),
        (["--watch", ".", "photo.png", "--output", "out"], "give photographs to inspect, or a folder"),
        ([], "give photographs to inspect, or a folder"),
        (["--watch", ".", "--format", "json"], "--watch and --pictures need --output DIR"),
        (["a.png", "--format", "json", "--pictures", "all"], "--watch and --pictures need --output DIR"),
        (["a.png", "--output", "out", "--stop-after", "1"], "--stop-after is for --watch"),
        (["--watch", ".", "--output", "out", "--settle", "-1"], "is not a number from 0 to 86400"),
        (["--watch", ".", "--output", "out", "--settle", "nan"], "is not a number from 0 to 86400"),
    ],
)
def test_flags_that_do_not_go_together(exported, tmp_path, flags, sentence):
    command = [sys.executable, str(ROOT / "deploy" / "inspect.py"), str(exported), *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1


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


def found(arrivals):
    return [one.name for one in arrivals.look()]


def test_a_file_is_at_rest_when_it_has_not_changed_for_a_while(watched):
    camera, arrivals, clock = watched
    (camera / "a.png").write_bytes(b"1")
    assert found(arrivals) == [] and arrivals.waiting == 1
    clock.now = 1.9
    (camera / "a.png").write_bytes(b"12")  # it grows
    assert found(arrivals) == []
    clock.now = 3.0
    assert found(arrivals) == []
    clock.now = 4.0
    (one,) = arrivals.look()
    assert (one.name, one.final) == ("a.png", False) and arrivals.is_unchanged(one)
    (camera / "a.png").write_bytes(b"123")
    assert not arrivals.is_unchanged(one)
    assert found(arrivals) == []
    clock.now = 6.0
    (one,) = arrivals.look()
    arrivals.finish(one)
    assert found(arrivals) == [] and arrivals.waiting == 0
    os.utime(camera / "a.png", (5, 5))  # written anew under its name: another photograph
    assert found(arrivals) == []
    clock.now = 8.0
    assert found(arrivals) == ["a.png"]


def test_files_at_rest_come_by_their_time(watched):
    camera, arrivals, clock = watched
    for name, modified in (("b.png", 20), ("a.png", 30), ("10.png", 10), ("2.png", 10), (".hidden.png", 1)):
        (camera / name).write_bytes(b"1")
        os.utime(camera / name, (modified, modified))
    found(arrivals)
    clock.now = 2.0
    assert found(arrivals) == ["2.png", "10.png", "b.png", "a.png"]


def test_a_file_that_cannot_be_read_is_tried_less_and_less_often_and_then_given_up(watched):
    camera, arrivals, clock = watched
    (camera / "a.png").write_bytes(b"1")
    (camera / "empty.png").write_bytes(b"")
    tries = []
    while clock.now < 60:
        for one in arrivals.look():
            tries.append((one.name, clock.now, one.final))
            (arrivals.finish if one.final else arrivals.postpone)(one)
        clock.now += 0.5
    assert [moment for name, moment, _ in tries if name == "a.png"] == [2.0, 4.0, 8.0, 16.0, PATIENCE]
    assert [one for one in tries if one[2]] == [("a.png", PATIENCE, True), ("empty.png", PATIENCE, True)]


def test_who_asks_it_to_end_waits_neither_for_the_pause_nor_for_the_files_at_rest(monkeypatch):
    monkeypatch.setattr("deploy.arrivals.PAUSE", 60)
    asked, begun = threading.Event(), time.monotonic()
    threading.Timer(0.2, asked.set).start()
    assert list(arriving(SimpleNamespace(look=list, waiting=0), None, asked)) == []
    assert asked.is_set() and time.monotonic() - begun < 20
    asked.clear()
    found = arriving(SimpleNamespace(look=lambda: ["a.png", "b.png"], waiting=2), None, asked)
    assert next(found) == "a.png"
    asked.set()
    assert list(found) == []


def test_a_folder_that_is_gone_and_comes_back_repeats_nothing(watched):
    camera, arrivals, clock = watched
    (camera / "a.png").write_bytes(b"1")
    found(arrivals)
    clock.now = 2.0
    arrivals.finish(*arrivals.look())
    camera.rename(camera.with_name("away"))
    with pytest.raises(DataError, match="camera"):
        arrivals.look()
    camera.with_name("away").rename(camera)
    assert found(arrivals) == []
    clock.now = 10.0
    assert found(arrivals) == []


def row(name, size=1):
    return stored_row(name, file={"bytes": size, "modified": 2, "digest": "3"})


def test_a_journal_goes_on_and_lists_what_is_skipped_once(tmp_path):
    for number in range(3):
        journal = Journal(tmp_path / "out", {"threshold": 1})
        assert journal.count == number and (key("=0.png", 1, 2) in journal.done) == (number > 0)
        journal.add(row(f"={number}.png"))
        journal.skip("=b.png", "is empty")
        journal.skip("=b.png", "is empty")
        journal.close()
    assert [one["image"] for one in rows(tmp_path / "out/scores.csv")] == ["./=0.png", "./=1.png", "./=2.png"]
    assert rows(tmp_path / "out/skipped.csv") == [{"image": "./=b.png", "reason": "is empty"}]


@pytest.mark.parametrize(
    "line", ["[]", "{}", "no json", '{"image": 1}', json.dumps(stored_row("b.png", score="x"))]
)
def test_a_journal_refuses_what_is_no_row_and_what_is_not_its_own(tmp_path, line):
    with pytest.raises(ConfigError, match="rows of another detector .threshold"):
        for threshold in (1, 2):
            journal = Journal(tmp_path / "out", {"threshold": threshold})
            journal.add(row("a.png"))
            journal.close()
    with open(tmp_path / "out/scores.jsonl", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ConfigError, match="line 2 is no row"):
        Journal(tmp_path / "out", {"threshold": 1})
    assert (tmp_path / "out/scores.jsonl").read_text().endswith(f"{line}\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/scores.csv").write_text("of somebody else")
    with pytest.raises(ConfigError, match="did not write"):
        Journal(tmp_path / "other", {})
    assert (tmp_path / "other/scores.csv").read_text() == "of somebody else"


def test_heat_maps_are_those_of_predict(exported):
    photo = Image.fromarray(texture(3, defect=True, height=200, width=260))
    graph = Graph(exported)
    result = graph.look_at(photo, "photo")
    heights = upsample(result.patch_map, photo.height, photo.width)
    ours = pictures.draw(photo, replace(result, is_anomalous=False), graph.heat_scale, None)
    theirs = drawing.heat(np.asarray(photo), heights, graph.heat_scale)
    assert np.abs(np.asarray(ours, int) - theirs).max() <= 3 and np.ptp(theirs, axis=2).max() > 100
    for level in (None, float(np.quantile(heights, 0.9)), 2 * float(heights.max())):
        mask = mask_of(heights, level)
        drawn = pictures.draw(photo, replace(result, is_anomalous=True), graph.heat_scale, level)
        changed = np.abs(np.asarray(drawn, int) - np.asarray(ours)).max(axis=2) > 0
        grown = binary_dilation(mask, np.ones((7, 7), bool))
        assert mask.any() and not (changed & mask).any() and changed[grown & ~mask].mean() > 0.9
        assert not changed[~grown].any() and (regions.mask_of(heights, level) == mask).all()


def test_a_mask_grows_by_any_number_of_pixels_in_the_same_time():
    mask = np.zeros((300, 400), np.uint8)
    mask[0, 0] = mask[150, 200] = mask[299, 390:] = 255
    for pixels in (1, 3, 40):
        grown = np.asarray(pictures._grown(Image.fromarray(mask), pixels))
        assert set(np.unique(grown)) == {0, 255}
        assert ((grown > 0) == binary_dilation(mask, np.ones((3, 3)), pixels)).all()
    large, seconds = Image.new("L", (2000, 1500)), []
    for pixels in (1, 60):
        begun = time.perf_counter()
        pictures._grown(large, pixels)
        seconds.append(time.perf_counter() - begun)
    assert seconds[1] < 10 * seconds[0]


@pytest.mark.slow
def test_pictures_of_a_finished_run(exported, place, tmp_path):
    command = [sys.executable, str(ROOT / "deploy" / "inspect.py"), str(exported), str(place / "parts")]
    for kind, count in (("all", 4), ("anomalous", None), ("none", 0)):
        flags = ["--output", str(tmp_path / "out"), "--pictures", kind]
        subprocess.run([*command, *flags], check=True, capture_output=True, timeout=60)
        table = rows(tmp_path / "out/scores.csv")
        wanted = sum(one["anomalous"] == "true" for one in table) if count is None else count
        drawn = [one["picture"] for one in table if one.get("picture")]
        assert len(drawn) == len(set(drawn)) == wanted
        assert all(Image.open(tmp_path / "out" / place).size for place in drawn)
        assert len(list((tmp_path / "out").glob("pictures/*"))) == wanted
