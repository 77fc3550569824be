"""Rows of a journal that another program wrote, with a right digest, are not taken up."""

import base64
import json

import numpy as np
import pytest

from fdsl.store.journal import CHECK, Journal, RowIndex, _digest
from tests.support.predictions import stored_row

WRONG = [
    *({name: None} for name in ("image", "score", "boxes", "width", "file", "regions")),
    *({"score": value} for value in ("0.5", True, 10**400, float("nan"))),
    *({"anomalous": value} for value in (1, "yes", [])),
    *({"boxes": value} for value in ([1], [{"x": 1}], {})),
    *({"width": value} for value in (10**400, 7.5)),
    *({"picture": value} for value in ("/etc/passwd", "../x.jpg", "pictures/../x.jpg", 7)),
    *({"file": value} for value in ({}, {"bytes": 1, "modified": 2, "digest": 3}, "x")),
    {"path": "\ud800"},
    {"statistics": [1, 2]},
    {"regions": [{"x": 1}]},
    {"strange": 1},
]


def line_of(values, maps=b""):
    text = json.dumps(values).encode()[:-1]
    return text + CHECK + _digest(text).encode() + b'"}' + (b"\t" + maps if maps else b"") + b"\n"


def names(folder, keep_maps=False):
    return [one["image"] for one in RowIndex([folder], keep_maps).others()]


@pytest.mark.parametrize("keep_maps", [False, True])
def test_rows_are_taken_up_as_they_were_written(tmp_path, keep_maps):
    journal = Journal(tmp_path, keep_maps)
    for name in ("a", "b"):
        journal.add(stored_row(name), np.zeros((2, 2), np.float32), None)
    journal.close()
    assert names(tmp_path, keep_maps) == ["a", "b"]


@pytest.mark.parametrize("changed", WRONG, ids=lambda changed: str(changed)[:50])
def test_a_row_of_another_program_ends_what_is_taken_up(tmp_path, changed):
    written = [line_of(stored_row("a")), line_of({**stored_row("b"), **changed}), line_of(stored_row("c"))]
    (tmp_path / "rows.jsonl").write_bytes(b"".join(written))
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "rows.jsonl").read_bytes() == written[0]


@pytest.mark.parametrize("text", [b"[]", b"null", b"{}", b"[" * 100_000, b'{"image": ' + b"9" * 5000 + b"}"])
def test_a_line_that_is_no_row_ends_it_too(tmp_path, text):
    start = text[:-1]
    line = start + CHECK + _digest(start).encode() + b'"}\n'
    (tmp_path / "rows.jsonl").write_bytes(line_of(stored_row("a")) + line)
    assert names(tmp_path) == ["a"]


def test_maps_of_another_size_than_the_row_says_end_it(tmp_path):
    maps = base64.b64encode(np.zeros(3, np.float32).tobytes())
    (tmp_path / "rows.jsonl").write_bytes(line_of({**stored_row("a"), "maps": _digest(maps)}, maps))
    assert names(tmp_path, keep_maps=True) == []
