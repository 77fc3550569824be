"""predict.py with streams that break or are closed: nothing is lost and nothing is mixed up."""

import csv
import json
import os
import subprocess
import sys

import pytest

from tests.support.constants import ROOT
from tests.support.predictions import RUNTIME

pytestmark = pytest.mark.slow
ANOMALOUS = ("--threshold", "0", "--exit-code")


def started(detector, place, *more, **streams):
    command = [sys.executable, "predict.py", "--detector", str(detector), "--input", str(place / "parts")]
    arguments = ["--format", "json", "--batch-size", "1", *RUNTIME, *more]
    return subprocess.Popen([*command, *arguments], cwd=ROOT, **streams)


@pytest.mark.parametrize("with_output", [True, False])
def test_a_reader_that_has_seen_enough(place, detector, tmp_path, with_output):
    out = ["--output", str(tmp_path / "out"), "--pictures", "none"] if with_output else []
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = started(detector, place, "--exit-code", "--threshold", "0", *out, **both)
    assert json.loads(process.stdout.readline())["anomalous"] is True
    process.stdout.close()
    assert "Traceback" not in process.stderr.read().decode()
    assert process.wait() == 1  # what was found counts
    if with_output:
        assert len(list(csv.DictReader(open(tmp_path / "out/scores.csv")))) == 4


@pytest.mark.parametrize(
    "more, wanted, streams",
    [
        *((ANOMALOUS, 1, each) for each in ("2> >(exit)", "2>&-", "1>&- 2>&-", "2> >(exit) 1> >(exit)")),
        (("--batch-size", "x"), 2, "1>&- 2>&-"),
    ],
)
def test_broken_and_closed_streams_change_no_exit_code(place, detector, tmp_path, more, wanted, streams):
    words = [
        "--detector",
        detector,
        "--input",
        place / "parts",
        "--output",
        tmp_path / "out",
        *RUNTIME,
        *more,
    ]
    command = " ".join(f"'{word}'" for word in (sys.executable, "predict.py", "--format", "json", *words))
    done = subprocess.run(["bash", "-c", f"{command} {streams}"], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == wanted and b"Traceback" not in done.stderr


def test_a_closed_standard_error_does_not_put_the_log_into_the_rows(place, detector):
    command = " ".join(
        [f"'{sys.executable}' predict.py --detector '{detector}' --input '{place / 'parts'}'"]
        + ["--format json", *RUNTIME, "2>&-"]
    )
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, stdout=subprocess.PIPE)
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert done.returncode == 0 and len(rows) == 5


@pytest.mark.parametrize("words", ["predict.py --doctor --model ViT-none", "test.py --help-all"])
def test_a_reader_of_text_that_has_seen_enough(words):
    """The exit code is that of the whole text: of --doctor 2, as there is no such model."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, *words.split()], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=120
    )
    os.close(writer)
    assert done.returncode == (2 if "--doctor" in words else 0)
    assert b"Broken pipe" not in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("streams", ["1>&- 2>&-", "2>/dev/full", "1>/dev/full"])
@pytest.mark.parametrize("script", ["folder", "mvtec", "visa"])
def test_the_check_of_a_dataset_ends_with_2_wherever_its_streams_lead(tmp_path, script, streams):
    line = f"'{sys.executable}' '{ROOT}/data/{script}.py' '{tmp_path}' {streams}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
