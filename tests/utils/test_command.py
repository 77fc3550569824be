"""What the entry points make of an error: one sentence and exit code 2."""

import errno
import sys

import pytest
import torch

from utils import signals
from utils.command import run_command
from utils.errors import ConfigError


def ended(monkeypatch, capsys, error, *flags):
    """Exit code and standard error of an entry point that raises `error`."""
    monkeypatch.setattr(signals, "answer", lambda: None)
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])

    def main(_):
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error, words",
    [
        (ConfigError("a sentence\nin two lines"), "error: a sentence in two lines"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            "a/b: No space left on device; the disk is full",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a/b"),
            "a/b: Permission denied; give permission",
        ),
        (OSError(errno.EROFS, "Read-only file system", "a"), "name another folder"),
        (OSError(errno.EIO, "Input/output error", "a"), "a: Input/output error; mend it"),
        (OSError("odd"), "a file: odd;"),
        (torch.OutOfMemoryError("CUDA out of memory."), "There is not enough memory (CUDA out of memory.)"),
        (MemoryError(), "There is not enough memory (MemoryError)"),
        (
            RuntimeError("CUDA error: an illegal memory access was encountered\nmore"),
            "The GPU stopped working (CUDA error: an",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "A process that loads images was ended",
        ),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(monkeypatch, capsys, error, words):
    code, reported = ended(monkeypatch, capsys, error)
    assert code == 2 and words in reported and "Traceback" not in reported
    assert len([line for line in reported.splitlines() if line.startswith("error: ")]) == 1


def test_debug_shows_the_traceback(monkeypatch, capsys):
    for error in (ConfigError("x"), OSError("x")):
        code, reported = ended(monkeypatch, capsys, error, "--debug")
        assert code == 2 and "Traceback" in reported


@pytest.mark.parametrize(
    "error", [RuntimeError("a fault\nof ours"), TypeError("odd"), RecursionError(), KeyError(3)]
)
def test_what_nobody_expected_is_a_sentence_and_never_exit_code_1(monkeypatch, capsys, error):
    code, reported = ended(monkeypatch, capsys, error)
    assert code == 70 and "Traceback" not in reported
    (line,) = [line for line in reported.splitlines() if line.startswith("error: ")]
    assert type(error).__name__ in line and "--debug" in line
    code, reported = ended(monkeypatch, capsys, error, "--debug")
    assert code == 70 and "Traceback" in reported


def test_no_control_character_reaches_the_terminal(monkeypatch, capsys):
    _, reported = ended(monkeypatch, capsys, ConfigError("\x1b[2Jred \x07 \u202e name \ud800"))
    assert "\\x1b[2Jred" in reported and "\\x07" in reported and "\\u202e" in reported
    assert not any(mark in reported for mark in "\x1b\x07\u202e")
