"""The benchmark of several processes measures what it says; what it measured is not judged here."""

import os

from benchmarks.large_runs import joined, list_files
from benchmarks.watched import cpu_seconds, descendants, peak_bytes


def test_joining_and_listing(tmp_path, capsys):
    joined(tmp_path / "joined", 3, 200)
    list_files(tmp_path / "files", 50)
    told = capsys.readouterr().out
    assert "50 blocks, 600 rows: joined in" in told and "50 files listed and read again in" in told
    assert len((tmp_path / "joined/scores.csv").read_text().splitlines()) == 601


def test_a_process_is_watched():
    number = os.getpid()
    assert peak_bytes(number) > 2**20 and cpu_seconds(number) > 0
    assert peak_bytes(2**22 + 5) == 0 and list(descendants(2**22 + 5)) == []
