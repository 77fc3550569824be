"""reproduce.sh: every seed, shot and dataset, and what it refuses."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.constants import ROOT

STUB = """import os, sys
from pathlib import Path
with open("calls.txt", "a") as file:
    file.write(" ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]) + "\\n")
sys.exit(3 if "--fail" in sys.argv and "--seed 14 15" in " ".join(sys.argv) else 0)
"""


@pytest.fixture
def reproduce(tmp_path):
    """reproduce.sh in a project whose commands only write down how they were called; returns (run, calls)."""
    for name in ("reproduce.sh", "scripts/shell.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("train.py", "test.py", "fdsl/summarize.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(STUB)
    (tmp_path / "requirements.txt").write_text("")
    for name in ("bin", "m v", "visa"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)

    def run(*words, **environment):
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in ("SEEDS", "SHOTS", "TEST_ARGS", "TRAIN_ARGS")
        }
        return subprocess.run(
            ["bash", str(tmp_path / "reproduce.sh"), *words],
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **clean,
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "MVTEC_PATH": "m v",
                "VISA_PATH": "visa",
                **environment,
            },
        )

    return (
        run,
        lambda: (
            (tmp_path / "calls.txt").read_text().splitlines() if (tmp_path / "calls.txt").exists() else []
        ),
    )


def test_reproduce_runs_every_seed_shot_and_dataset(reproduce):
    run, calls = reproduce
    done = run(
        "net",
        "cpu",
        "--pretrained",
        "none",
        SEEDS="3\n 4",
        SHOTS="2",
        TRAIN_ARGS="--epochs 1",
        TEST_ARGS="--pictures 0 --results out",
    )
    assert done.returncode == 0, done.stderr
    common = "--model-name net --device cpu --use-nam 1 --pretrained none"
    windows = "--winmode mul --win-size 13 --win-stride 2 --win-weight 0.5"
    tests = [
        f"test --dataset {name} --data-path {path} {common} {windows} --seed 3 --k-shot 2 --seed 3 4 "
        "--k-shot 2 --pictures 0 --results out"
        for name, path in (("visa", "visa"), ("mvtec", "m v"))
    ]
    assert calls() == [
        f"train --dataset mvtec --data-path m v {common} --epochs 1",
        f"train --dataset visa --data-path visa {common} --epochs 1",
        *tests,
        "summarize out/net",
    ]
    assert "mvtec: 2 runs in one pass" in done.stderr


def test_reproduce_has_defaults_and_stops_at_a_failure(reproduce):
    run, calls = reproduce
    done = run(TEST_ARGS="--fail")
    assert done.returncode == 3
    assert len(calls()) == 3 and calls()[-1].startswith("test --dataset visa")
    assert "--seed 14 15 16 17 18 --k-shot 1 2 4 --fail" in calls()[-1]
    assert "visa: 15 runs in one pass" in done.stderr
    assert all("--model-name fdsl --device auto" in call for call in calls())


@pytest.mark.parametrize(
    "words, environment, told",
    [
        (("a/b",), {}, "MODEL"),
        (("", "cpu"), {"SEEDS": "x"}, "SEEDS"),
        (("m", "gpu"), {}, "DEVICE"),
        (("m", "cpu", "64"), {}, "must be flags"),
        ((), {"SEEDS": "14 x"}, "SEEDS"),
        ((), {"SEEDS": "*"}, "SEEDS"),
        ((), {"SEEDS": " "}, "SEEDS"),
        ((), {"SHOTS": "0"}, "SHOTS"),
        ((), {"SHOTS": "1,2"}, "SHOTS"),
        ((), {"VISA_PATH": "nowhere"}, "VISA_PATH=DIR"),
    ],
)
def test_reproduce_answers_wrong_arguments_with_usage(reproduce, words, environment, told):
    run, calls = reproduce
    done = run(*words, **environment)
    assert done.returncode == 2 and not calls()
    assert done.stderr.startswith("error: ") and told in done.stderr.splitlines()[0]
    assert ("usage: bash reproduce.sh [MODEL DEVICE" in done.stderr) == ("VISA_PATH" not in told)
