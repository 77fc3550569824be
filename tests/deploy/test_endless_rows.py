"""The output folder of an endless run."""

import json

import pytest

from deploy.row_journal import Journal, key
from tests.support.predictions import rows, stored_row
from utils.errors import ConfigError


def row(name, size=1):
    return stored_row(name, file={"bytes": size, "modified": 2, "digest": "3"})


def test_a_journal_goes_on_and_lists_what_is_skipped_once(tmp_path):
    for number in range(3):
        journal = Journal(tmp_path / "out", {"threshold": 1})
        assert journal.count == number and (key("=0.png", 1, 2) in journal.done) == (number > 0)
        journal.add(row(f"={number}.png"))
        journal.skip("=b.png", "is empty")
        journal.skip("=b.png", "is empty")
        journal.close()
    assert [one["image"] for one in rows(tmp_path / "out/scores.csv")] == ["./=0.png", "./=1.png", "./=2.png"]
    assert rows(tmp_path / "out/skipped.csv") == [{"image": "./=b.png", "reason": "is empty"}]


@pytest.mark.parametrize(
    "line", ["[]", "{}", "no json", '{"image": 1}', json.dumps(stored_row("b.png", score="x"))]
)
def test_a_journal_refuses_what_is_no_row_and_what_is_not_its_own(tmp_path, line):
    with pytest.raises(ConfigError, match="rows of another detector .threshold"):
        for threshold in (1, 2):
            journal = Journal(tmp_path / "out", {"threshold": threshold})
            journal.add(row("a.png"))
            journal.close()
    with open(tmp_path / "out/scores.jsonl", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ConfigError, match="line 2 is no row"):
        Journal(tmp_path / "out", {"threshold": 1})
    assert (tmp_path / "out/scores.jsonl").read_text().endswith(f"{line}\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/scores.csv").write_text("of somebody else")
    with pytest.raises(ConfigError, match="did not write"):
        Journal(tmp_path / "other", {})
    assert (tmp_path / "other/scores.csv").read_text() == "of somebody else"
