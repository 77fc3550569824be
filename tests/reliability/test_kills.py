"""Real processes of train.py, test.py and predict.py, killed with SIGKILL at random moments until they get
through.

FDSL_KILLS=30 sets how many kills there are (default 3); FDSL_KILL_SEED chooses other moments.
"""

import os
import random
import time

import pytest

from tests.support.small_runs import Place, files, start

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("FDSL_KILLS", "3"))
SEED = int(os.environ.get("FDSL_KILL_SEED", "1"))
HIDDEN_NEVER_LEFT = (".tmp", ".lock", ".parts", ".partial", ".unfinished.safetensors")
BEGUN = {"train": "python ", "test": "python ", "predict": "threshold "}  # how the line begins that says so


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


def begin(name, arguments):
    """A process that has begun its work, which a line in the log says, or had none left to do."""
    process = start(name, arguments)
    for line in process.stderr:
        if line.startswith(BEGUN[name]):
            return process
    assert process.wait() == 0, f"{name}.py ended before it began"
    return process


def undisturbed(name, arguments):
    """Runs to the end; the seconds from its first line to its end."""
    process = begin(name, arguments)
    begun = time.monotonic()
    rest = process.communicate()[1]
    assert process.returncode == 0, rest
    return time.monotonic() - begun


def killed_until_finished(name, arguments, seconds, moments, most):
    """Starts a run again and again, killing it at random moments at most `most` times; how often it was
    killed."""
    for killed in range(most + 1):
        process = begin(name, arguments)
        if killed < most:
            try:
                process.wait(timeout=moments.uniform(0, seconds))
            except Exception:  # still running: that is the moment
                process.kill()
        rest = process.communicate()[1]
        if process.returncode == 0:
            return killed
        assert process.returncode == -9, rest
    raise AssertionError("the run that was not killed did not end well")


@pytest.mark.parametrize("name", ["train", "test", "predict"])
def test_killed_runs_end_in_the_same_bytes(place, tmp_path, name, record_property):
    moments, kills = random.Random(f"{SEED} {name}"), 0
    if name == "train":

        def arguments(folder):
            return place.train("--epochs", "6", "--save-every", "1", "--checkpoints", str(folder))
    elif name == "test":
        undisturbed("train", place.train())

        def arguments(folder):
            return place.test("--results", str(folder))
    else:

        def arguments(folder):
            return place.predict("--resume", "--save-maps", "--output", str(folder))

    seconds = undisturbed(name, arguments(tmp_path / "whole"))
    wanted = files(tmp_path / "whole")
    assert wanted
    rounds = 0
    while kills < -(-KILLS // 3):
        rounds += 1
        folder = tmp_path / str(rounds)
        kills += killed_until_finished(name, arguments(folder), seconds, moments, -(-KILLS // 3) - kills)
        assert files(folder) == wanted
        assert not [path for path in folder.rglob("*") if path.name.endswith(HIDDEN_NEVER_LEFT)]
    record_property("kills", kills)
    print(f"{name}: {kills} kills over {rounds} runs, every run's files equal the undisturbed run's")
