"""Locks and signals: two runs for one folder, Ctrl-C and SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fdsl.store.training_state import TrainingState
from tests.support.constants import ROOT
from tests.support.run_config import heads_of
from tests.support.small_runs import children, command, line_with, start
from utils import lock
from utils.config import BackboneConfig, MethodConfig
from utils.errors import ConfigError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
train, test = command("train"), command("test")

HOLDER = (
    "import sys, time; from pathlib import Path; from utils.lock import locked\n"
    "with locked(Path(sys.argv[1]), 'it', 'go'):\n    print('held', flush=True); time.sleep(60)"
)


def holder(file):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_by_name_of_the_first_and_a_killed_one_holds_nothing(place, tmp_path):
    first = holder(tmp_path / "m/.mvtec.lock")
    try:
        with pytest.raises(
            ConfigError, match=rf"mvtec.safetensors is being written by process {first.pid} on .* since "
        ):
            train.main(place.train("--checkpoints", str(tmp_path)))
        assert not (tmp_path / "m/mvtec.safetensors").exists()
    finally:
        first.kill()
        first.wait()
    assert (tmp_path / "m/.mvtec.lock").exists()
    train.main(place.train("--checkpoints", str(tmp_path), "--epochs", "1"))
    assert (tmp_path / "m/mvtec.safetensors").exists() and not (tmp_path / "m/.mvtec.lock").exists()


def test_a_test_run_is_refused_while_another_writes_its_folder(place, tmp_path):
    folder = tmp_path / "m/mvtec/1shot/seed14" / place.run_folder().name
    with lock.locked(folder / ".lock", "it", "go"):
        with pytest.raises(ConfigError, match=rf"is being written by process {os.getpid()} .*--results"):
            test.main(place.test("--results", str(tmp_path)))
    assert not (folder / "config.json").exists()


# Signals ----------------------------------------------------------------------------------------------------

PROMPT = 3  # seconds: a second is what the commands take, the rest is for a busy machine


def interrupt(process, number):
    """Sends a signal; returns (exit code, seconds, rest of standard error)."""
    process.send_signal(number)
    begun = time.monotonic()
    reported = process.communicate(timeout=20)[1]
    return process.returncode, time.monotonic() - begun, reported


def alive(number):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_answers_with_one_line_that_says_how_to_continue(place, tmp_path, number, code):
    process = start(
        "train",
        place.train("--epochs", "900", "--save-every", "1", "--workers", "2", "--checkpoints", str(tmp_path)),
    )
    line_with(process, "epoch 2/900: loss")
    helpers = children(process.pid)
    found, seconds, rest = interrupt(process, number)
    assert (found, seconds < PROMPT) == (code, True)
    last = [line for line in rest.splitlines() if not line.startswith("epoch ")]
    assert len(last) == 1 and last[0].startswith("Interrupted; the same command goes on after step "), rest
    assert "train.py --dataset mvtec" in last[0] and "Traceback" not in rest
    end = time.monotonic() + PROMPT
    while any(map(alive, helpers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert helpers and not [child for child in helpers if alive(child)]
    other = heads_of(BackboneConfig(), MethodConfig(), "ab", "visa")
    state = TrainingState(tmp_path / "m/mvtec.unfinished.safetensors", other)
    assert state.read().position.step >= 8


HELD = (
    "from utils import signals; signals.answer(); import hashlib\nprint('held', flush=True)\n"
    "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"
)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_inside_a_library_answers_too(number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", HELD], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "held\n"
    time.sleep(0.1)
    found, seconds, rest = interrupt(process, number)
    assert (found, seconds < PROMPT) == (code, True)
    assert (
        rest.startswith("Interrupted; nothing is finished yet, the same command starts over: ")
        and len(rest.splitlines()) == 1
    )


def test_ctrl_c_is_answered_while_python_is_still_importing(place):
    process = start("test", place.test())
    while process.poll() is None and not alive_with_handler(process.pid):
        time.sleep(0.005)
    found, seconds, rest = interrupt(process, signal.SIGINT)
    assert (found, seconds < PROMPT) == (130, True)
    assert rest.startswith("Interrupted; ") and len(rest.splitlines()) == 1


def alive_with_handler(number):
    """Whether a process catches SIGTERM, which Python by itself does not."""
    for line in Path(f"/proc/{number}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False
