"""Locks on files: where there are none, held ones, and files of any content."""

import errno
import os
import signal
import threading
from types import SimpleNamespace

import pytest

from utils import lock, signals
from utils.errors import ConfigError


@pytest.mark.parametrize("kind", ["Windows", "a disk without locks"])
def test_where_there_are_no_locks_it_goes_on_and_says_so(tmp_path, monkeypatch, logged, kind):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    stand_in = None if kind == "Windows" else SimpleNamespace(LOCK_EX=2, LOCK_NB=4, lockf=lockf)
    monkeypatch.setattr(lock, "fcntl", stand_in)
    with lock.locked(tmp_path / ".lock", "it", "go"):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / ".lock").exists() and "no locks of files here" in logged()


def test_what_another_process_holds_is_refused_with_its_number(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(lock, "fcntl", SimpleNamespace(LOCK_EX=2, LOCK_NB=4, lockf=lockf))
    (tmp_path / ".lock").write_text("process 42 on there since then")
    with (
        pytest.raises(ConfigError, match="by process 42 on there since then; wait until it has ended, or go"),
        lock.locked(tmp_path / ".lock", "it", "go"),
    ):
        pass
    assert (tmp_path / ".lock").exists()


def test_a_lock_file_of_any_content_is_taken(tmp_path):
    for content in (b"", b"[]", b"\xff\x00", b"9" * 9999):
        (tmp_path / ".lock").write_bytes(content)
        with lock.locked(tmp_path / ".lock", "it", "go"):
            pass


def test_an_interruption_leaves_no_file_of_a_lock(tmp_path, monkeypatch):
    assert lock.remove_held in signals._last_actions
    codes = []
    monkeypatch.setattr(signals, "_last_actions", [lock.remove_held])
    monkeypatch.setattr(signals, "_leaving", threading.Lock())
    monkeypatch.setattr(os, "_exit", codes.append)
    with lock.locked(tmp_path / ".lock", "it", "go"):
        signals.leave(signal.SIGTERM)
        assert codes == [143] and not (tmp_path / ".lock").exists()
