"""Tables that users open."""

import csv
import os
import signal
import subprocess
import sys

import pytest

from tests.support.constants import ROOT
from utils.errors import ConfigError
from utils.files import (
    _nameless,
    as_cell,
    csv_text,
    read_json,
    remove_leftovers,
    whole_file,
    write_json,
    write_text,
)


def test_cells_that_a_spreadsheet_would_run_are_neutralised():
    rows = list(
        csv.reader(csv_text(["name"], [["=1+1"], ["+1"], ["-1"], ["@x"], ["\tx"], ["plain"]]).splitlines())
    )
    assert rows[0] == ["\ufeffname"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "plain"]


def test_a_column_that_no_row_fills_is_left_out():
    lines = csv_text(["a", "b", "c"], [[True, None, 0.5], [False, "", None]]).splitlines()
    assert lines == ["\ufeffa,c", "true,0.5", "false,"]
    assert csv_text(["a"], []) == "\ufeffa\n"


KILLED = """
import os, signal, sys
from utils import files
if sys.argv[2] == "no":
    files._nameless = lambda folder: None
with files.whole_file(sys.argv[1], "wb") as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("nameless", ["yes", "no"])
def test_a_killed_process_leaves_the_file_of_before(tmp_path, nameless):
    file = tmp_path / "part.safetensors"
    file.write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", KILLED, str(file), nameless], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and file.read_bytes() == b"before"
    left = [entry for entry in tmp_path.iterdir() if entry != file]
    if nameless == "yes" and _nameless(tmp_path) is None:
        pytest.skip("this file system has no files without names")
    assert len(left) == (nameless == "no")
    remove_leftovers(file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("way", ["nameless", "copied", "named"])
def test_a_whole_file_has_its_name_and_its_rights(tmp_path, monkeypatch, way):
    if way == "named":
        monkeypatch.setattr("utils.files._nameless", lambda folder: None)
    if way == "copied":
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(18, "another device")))
    before = os.umask(0o027)
    try:
        for content in ("one", "two"):
            write_text(tmp_path / "a.txt", content)
            assert (tmp_path / "a.txt").read_text() == content
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640 and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.txt") as file:
        file.write("three")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "two" and len(list(tmp_path.iterdir())) == 1


def test_names_that_are_no_unicode_are_written_and_read_back(tmp_path):
    write_json(tmp_path / "a.json", {"command": "--output \udcff"})
    assert read_json(tmp_path / "a.json") == {"command": "--output \udcff"}


def test_a_photographs_name_stays_one_in_a_table(tmp_path):
    for name in ("=1+2.png", "-5.png", "+x.png", "@1.png", "plain.png", "a/=1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        cell = csv_text(["image"], [[as_cell(name)]]).splitlines()[1]
        assert (tmp_path / cell).samefile(tmp_path / name) and cell[0] not in "=+-@'"


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe is a device or a pipe; name a file"):
        write_text(tmp_path / "pipe", "rows")
    assert (tmp_path / "pipe").is_fifo()
