"""The list of a run's photographs: the inputs are walked once, and processes share it batch by batch."""

import pytest

from data import inputs
from data.inputs import Listed, find_images
from data.manifest import read_list, share_of, write_list
from tests.support.photographs import draw


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photos"
    for number in range(7):
        draw(folder / f"{number}.png", number)
    (folder / "3.dng").touch()
    (folder / "9.dng").touch()
    return folder


def test_photographs_and_what_there_is_to_say_come_in_one_stream(photographs):
    found = list(find_images([photographs]))
    assert [item.name for item in found if item.path] == [f"{number}.png" for number in range(7)]
    assert [(number, item.reason) for number, item in enumerate(found) if not item.path] == [
        (3, ".dng photographs are not read; convert it to PNG or JPEG"),
        (8, ".dng photographs are not read; convert it to PNG or JPEG"),
    ]


def test_the_inputs_are_walked_once(photographs, monkeypatch, tmp_path):
    walked, plain = [], inputs._entries
    monkeypatch.setattr(inputs, "_entries", lambda *given: walked.append(given[0]) or plain(*given))
    assert write_list(tmp_path / "list", find_images([photographs])) == 9
    assert list(read_list(tmp_path / "list")) == list(find_images([photographs]))
    assert len(walked) == 2


def test_what_is_done_and_names_that_are_no_unicode_come_back(tmp_path):
    items = [Listed("a\\udc80.png", tmp_path / "a\udc80.png"), Listed("b", tmp_path / "b.png", done=True)]
    assert write_list(tmp_path / "list", items) == 1 and list(read_list(tmp_path / "list")) == items


@pytest.mark.parametrize("size", [1, 2, 3, 20])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_processes_share_the_batches_of_one(photographs, size, batch_size):
    """Each item once, in whole batches that follow one another; what is done is in no batch."""
    items = [*find_images([photographs]), Listed("done.png", photographs / "0.png", done=True)]
    waiting = items[:-1]
    shares = [list(share_of(items, batch_size, rank, size)) for rank in range(size)]
    assert sorted(sum(shares, []), key=waiting.index) == waiting
    for rank, share in enumerate(shares):
        batches = [waiting[start : start + batch_size] for start in range(0, len(waiting), batch_size)]
        assert share == sum(batches[rank::size], [])
