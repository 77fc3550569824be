"""Locks on files: where the system has none, on Windows, and files of any content."""

import json
import os

import pytest

from utils import lock
from utils.errors import ConfigError


@pytest.mark.parametrize(
    "process, begun, free",
    [
        ("mine", "", True),
        ("mine", None, False),
        (2**22 + 5, None, True),
        ("text", None, True),
        (-1, None, True),
    ],
)
def test_without_locks_of_the_system_the_process_id_and_its_start_decide(
    tmp_path, monkeypatch, process, begun, free
):
    monkeypatch.setattr(lock, "fcntl", None)
    file = tmp_path / ".lock"
    me = lock._me()
    file.write_text(
        json.dumps(
            {
                **me,
                "process": os.getpid() if process == "mine" else process,
                "begun": me["begun"] if begun is None else begun,
            }
        )
    )
    if free:
        with lock.locked(file, "it", "go"):
            assert json.loads(file.read_text())["process"] == os.getpid()
        assert not file.exists()
    else:
        with (
            pytest.raises(ConfigError, match="it is being written by process"),
            lock.locked(file, "it", "go"),
        ):
            pass
        assert file.exists()


@pytest.mark.parametrize("taken", [False, True])
def test_windows_locks_a_far_byte(tmp_path, monkeypatch, taken):
    """Against a stand-in for Python's msvcrt, whose `locking` locks from the file's position and raises where
    it cannot."""

    class Windows:
        LK_NBLCK, locked = 2, []

        def locking(self, handle, mode, count):
            self.locked.append((os.lseek(handle, 0, os.SEEK_CUR), mode, count))
            if taken:
                raise OSError(13, "Permission denied")

    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "msvcrt", Windows())
    file = tmp_path / ".lock"
    if taken:
        file.write_text(json.dumps({"process": 42, "host": "there", "since": "then"}))
        with (
            pytest.raises(ConfigError, match="by process 42 on there since then"),
            lock.locked(file, "it", "go"),
        ):
            pass
    else:
        with lock.locked(file, "it", "go"):
            assert json.loads(file.read_text())["process"] == os.getpid()
    assert Windows.locked == [(lock.FAR, 2, 1)]


def test_a_lock_file_of_any_content_is_taken(tmp_path):
    for content in (b"", b"[]", b"\xff\x00", b"9" * 9999):
        (tmp_path / ".lock").write_bytes(content)
        with lock.locked(tmp_path / ".lock", "it", "go"):
            pass
