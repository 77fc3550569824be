"""Tables that users open."""

import csv

from utils.files import csv_text


def test_cells_that_a_spreadsheet_would_run_are_neutralised():
    rows = list(
        csv.reader(csv_text(["name"], [["=1+1"], ["+1"], ["-1"], ["@x"], ["\tx"], ["plain"]]).splitlines())
    )
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "plain"]
