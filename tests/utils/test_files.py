"""Tables that users open."""

import csv

from utils.files import as_file, csv_text, read_json, write_json


def test_cells_that_a_spreadsheet_would_run_are_neutralised():
    rows = list(
        csv.reader(csv_text(["name"], [["=1+1"], ["+1"], ["-1"], ["@x"], ["\tx"], ["plain"]]).splitlines())
    )
    assert rows[0] == ["\ufeffname"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "plain"]


def test_names_that_are_no_unicode_are_written_and_read_back(tmp_path):
    write_json(tmp_path / "a.json", {"command": "--output \udcff"})
    assert read_json(tmp_path / "a.json") == {"command": "--output \udcff"}


def test_a_photographs_name_stays_one_in_a_table(tmp_path):
    for name in ("=1+2.png", "-5.png", "+x.png", "@1.png", "plain.png", "a/=1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        cell = csv_text(["image"], [[as_file(name)]]).splitlines()[1]
        assert (tmp_path / cell).samefile(tmp_path / name) and cell[0] not in "=+-@'"
