"""What a command does before PyTorch is loaded, and where a package is missing."""

import os
import subprocess
import sys

import pytest

from tests.support.constants import ROOT
from tests.support.small_runs import environment

pytestmark = pytest.mark.slow
COMMANDS = ("predict", "test", "train", "export", "app")
LOADED = "import runpy, sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); "
NEEDED = {
    "predict": ["--references", "a", "--input", "b", "--output", "c"],
    "test": ["--dataset", "mvtec"],
    "train": ["--dataset", "visa"],
    "export": ["--detector", "a", "--output", "b.onnx"],
    "app": [],
}


def asked(name, *flags):
    """A command's process, whose last line of output says whether PyTorch was imported."""
    code = f"{LOADED}sys.argv = {[name, *flags]!r}; runpy.run_path({f'{name}.py'!r}, None, '__main__')"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment(), timeout=60
    )


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag, code", [("--help", 0), ("--no-such-flag", 2)])
def test_flags_are_read_before_pytorch_is_loaded(name, flag, code):
    ended = asked(name, flag)
    assert ended.returncode == code and ended.stdout.endswith("False\n"), ended.stderr


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--show", "--detector", "no-such-file"], "There is no detector no-such-file"),
        (
            ["--references", "no-such-folder", "--input", "docs", "--output", "out"],
            "no-such-folder: is no file, no folder",
        ),
        (
            ["--references", "docs", "--input", "no-such-folder", "--output", "out"],
            "no-such-folder: is no file, no folder",
        ),
    ],
)
def test_what_is_not_there_is_said_before_pytorch_is_loaded(flags, words):
    ended = asked("predict", *flags)
    assert ended.returncode == 2 and words in ended.stderr and ended.stdout.endswith("False\n")


def without_packages(name, *flags):
    """A command under a Python that has no packages."""
    command = [sys.executable, "-S", f"{name}.py", *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": ""}
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_package_is_one_sentence(name):
    assert without_packages(name, "--help").returncode == 0
    ended = without_packages(name, *NEEDED[name])
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: The package ") and "activate" in last


def test_the_doctor_needs_no_package():
    ended = without_packages("predict", "--doctor")
    assert ended.returncode == 2 and "[stops] torch: is missing" in ended.stdout
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("1 thing to do: packages: activate the environment") and len(last) < 120
