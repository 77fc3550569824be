"""The list of a run's photographs: walked once, cut into blocks, read a part at a time."""

import json

import pytest

from data import inputs, manifest
from data.manifest import Listed, Manifest, Spool, batches_of_a_block, listed
from tests.support.photographs import draw
from utils.errors import ConfigError


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photos"
    for number in range(7):
        draw(folder / f"{number}.png", number)
    (folder / "3.dng").touch()
    (folder / "9.dng").touch()
    return folder


def test_a_block_is_of_whole_batches():
    """A 64th of the photographs, at most 1,000, at least one batch."""
    for batch_size, photographs, length in (
        (4, 10**6, 1000),
        (7, 10**6, 994),
        (3000, 10**6, 3000),
        (4, 6400, 100),
        (4, 300, 8),
        (4, 3, 4),
        (1, 0, 1),
    ):
        assert batches_of_a_block(-(-photographs // batch_size), batch_size) * batch_size == length


def test_photographs_and_what_there_is_to_say_come_in_one_stream(photographs):
    found = list(listed([photographs]))
    assert [item.name for item in found if item.path] == [f"{number}.png" for number in range(7)]
    assert [(number, item.reason) for number, item in enumerate(found) if not item.path] == [
        (3, ".dng photographs are not read; convert it to PNG or JPEG"),
        (8, ".dng photographs are not read; convert it to PNG or JPEG"),
    ]


def test_the_inputs_are_walked_once(photographs, monkeypatch):
    walked, plain = [], inputs._entries
    monkeypatch.setattr(inputs, "_entries", lambda *given: walked.append(given[0]) or plain(*given))
    spool = Spool(listed([photographs]))
    assert spool.count == 7 and list(spool) == list(spool) == list(listed([photographs]))
    assert len(walked) == 2


@pytest.mark.parametrize("length, blocks", [(1, 7), (2, 4), (3, 3), (7, 1), (100, 1)])
def test_blocks_together_are_the_list(photographs, tmp_path, monkeypatch, length, blocks):
    monkeypatch.setattr(manifest, "BLOCK", length)
    monkeypatch.setattr(manifest, "BLOCKS", 1)
    made = Manifest.write(tmp_path, listed([photographs]), [str(photographs)], 1)
    read = Manifest.read(tmp_path)
    assert made == read and len(read) == blocks and read.count == 7 and Manifest.is_in(tmp_path)
    found = [list(read.block(number)) for number in range(blocks)]
    assert [item for block in found for item in block] == list(listed([photographs]))
    assert all(sum(item.path is not None for item in block) == length for block in found[:-1])


def test_names_that_are_no_unicode_come_back(tmp_path):
    items = [Listed("a\\udc80.png", tmp_path / "a\udc80.png")]
    assert list(Manifest.write(tmp_path, items, [], 4).block(0)) == items


def test_nothing_but_words_is_a_block_too(tmp_path):
    assert len(Manifest.write(tmp_path, [Listed("x.dng", None, "why")], [], 4)) == 1


@pytest.mark.parametrize("change", ["count", "offsets", "cut", "text"])
def test_a_list_that_is_not_whole_is_refused(photographs, tmp_path, change):
    Manifest.write(tmp_path, listed([photographs]), [], 4)
    values = json.loads((tmp_path / "inputs.json").read_text())
    if change == "cut":
        (tmp_path / "inputs.jsonl").write_bytes(b"")
    elif change == "text":
        values = "x"
    else:
        del values[change]
    (tmp_path / "inputs.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="holds no complete list of photographs"):
        Manifest.read(tmp_path)
