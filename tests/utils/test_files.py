"""Tables that users open."""

import csv

from utils.files import csv_text, read_json, write_json


def test_cells_that_a_spreadsheet_would_run_are_neutralised():
    rows = list(
        csv.reader(csv_text(["name"], [["=1+1"], ["+1"], ["-1"], ["@x"], ["\tx"], ["plain"]]).splitlines())
    )
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "plain"]


def test_names_that_are_no_unicode_are_written_and_read_back(tmp_path):
    write_json(tmp_path / "a.json", {"command": "--output \udcff"})
    assert read_json(tmp_path / "a.json") == {"command": "--output \udcff"}
