"""deploy/inspect.py --watch: each photograph once, whole, in order, also after a kill."""

import json
import os
import signal
import subprocess
import time

import pytest

from tests.support.exported import inspect_command
from tests.support.photographs import draw
from tests.support.predictions import rows

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

pytestmark = pytest.mark.slow


def started(exported, camera, out, *more):
    flags = ["--watch", camera, "--output", out, "--settle", "0.2", *more]
    command = inspect_command(exported, *flags)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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
