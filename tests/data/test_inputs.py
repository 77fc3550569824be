"""Which photographs an input stands for."""

import pytest
from PIL import Image

from data import inputs
from data.images import open_image
from data.inputs import Listed, find_images, list_images, read_list, refuse_missing, share_of, write_list
from tests.support.photographs import draw, draw_parts
from utils.errors import DataError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """good/ with references and parts/ with photographs."""
    return draw_parts(tmp_path_factory.mktemp("place"))


def test_inputs_files_folders_and_patterns(place, tmp_path):
    def names(*inputs, **more):
        return [one.name for one in find_images([str(item) for item in inputs], **more)]

    parts = place / "parts"
    assert names(parts) == ["2.png", "10.png", "line b/broken.png", "line b/x,1.png", "line b/deep/7.JPG"]
    assert names(parts / "*.png") == ["2.png", "10.png"]
    assert names(parts / "**/*.png") == ["2.png", "10.png", "line b/broken.png", "line b/x,1.png"]
    assert names(parts / "line*" / "deep") == ["line b/deep/7.JPG"]
    assert names(parts / "[0-9]*.*g") == ["2.png", "10.png"]
    assert names(parts, without=[parts / "line b"]) == ["2.png", "10.png"]
    assert names(parts / "2.png", parts / "line b/deep") == [f"{parts}/2.png", f"{parts}/line b/deep/7.JPG"]
    assert names(parts / "*.webp") == []
    assert names(parts / "notes.txt") == ["notes.txt"], "a file that is named is tried"
    with pytest.raises(DataError, match="nowhere"):
        names(tmp_path / "nowhere")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    draw(tmp_path / "a[1].png", 1)
    assert [one.name for one in find_images([tmp_path / "a[1].png"])] == ["a[1].png"]


def test_links_that_go_round_end_and_hidden_folders_are_passed_over(tmp_path):
    draw(tmp_path / "in/a/1.png", 1)
    draw(tmp_path / "in/.hidden/2.png", 2)
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/self.png").symlink_to(tmp_path / "in/self.png")
    assert [one.name for one in find_images([tmp_path / "in"])] == ["self.png", "a/1.png"]


def test_names_are_found_one_folder_at_a_time(tmp_path):
    for folder in ("a", "b"):
        draw(tmp_path / folder / "1.png", 1)
    found = find_images([tmp_path])
    assert next(found).name == "a/1.png"
    draw(tmp_path / "b" / "2.png", 2)
    assert [one.name for one in found] == ["b/1.png", "b/2.png"]


def test_a_folder_with_brackets_in_its_name_is_taken_literally(tmp_path):
    for name in ("line [new]/a.png", "line [new]/deep/b.png", "line n/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [one.name for one in find_images([f"{tmp_path}/line [new]/*.png"])] == ["a.png"]
    assert [one.name for one in find_images([f"{tmp_path}/line [new]/**/*.png"])] == ["a.png", "deep/b.png"]
    assert [one.path.name for one in find_images([f"{tmp_path}/line [n]/*.png"])] == ["c.png"]


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPE"])
def test_jpeg_by_its_other_names(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    Image.new("RGB", (8, 8), "red").save(file, format="JPEG")
    assert list_images(tmp_path) == [file] and open_image(file).size == (8, 8)


def names_of(*inputs):
    return [one.name for one in find_images([str(item) for item in inputs])]


def test_two_files_never_share_a_name(tmp_path):
    """Whatever their names look like where control characters are escaped."""
    wild = ["\x1b.png", "\\x1b.png", "\\\\x1b.png", "a\nb.png", "a\\nb.png"]
    wild += ["\udcff.png", "\\udcff.png", "\u202e.png"]
    for name in wild:
        (tmp_path / name).write_bytes(b"")
    names = names_of(tmp_path)
    assert len(set(names)) == len(wild) and all(name.isprintable() for name in names)
    for name in names:
        name.encode("utf-8")


def test_inputs_that_overlap_give_each_file_once(place):
    parts = place / "parts"
    whole = names_of(parts)
    assert len(names_of(parts, parts / "2.png")) == len(names_of(parts / "2.png", parts)) == len(whole)
    assert len(names_of(parts, parts / "line b", f"{parts}/../parts/2.png")) == len(whole)
    assert sorted(names_of(f"{parts}/**/**/*.png")) == sorted(names_of(f"{parts}/**/*.png"))
    found = names_of(parts, parts / "2.png", parts / "*.png")
    assert found == names_of(parts, parts / "2.png", parts / "*.png") and len(set(found)) == len(found)


LIVE = (
    "rtsp://10.0.0.7/stream?x=[1]",
    "http://camera/video*",
    "udp://@:1234",
    "0",
    "2",
    "/dev/null",
    "gige://x",
)


@pytest.mark.parametrize("given", LIVE)
def test_cameras_and_streams_are_answered_with_what_can_be_done(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for look in (lambda: refuse_missing([given]), lambda: list(find_images([given]))):
        with pytest.raises(
            DataError, match="cameras and streams are read by predict.py --input alone; let another"
        ):
            look()


@pytest.mark.parametrize("name", ["a.mp4", "b.AVI"])
def test_a_clip_among_photographs_is_named_with_what_can_be_done(tmp_path, name):
    (tmp_path / name).write_bytes(b"0000ftypisom")
    draw(tmp_path / "1.png", 1)
    clip, photo = sorted(find_images([str(tmp_path)]))
    assert photo.name == "1.png" and clip.name == str(tmp_path / name) and clip.path is None
    with pytest.raises(DataError) as refused:
        open_image(tmp_path / name)
    for sentence in (clip.reason, str(refused.value)):
        assert "give a clip to predict.py --input alone, or let another program save pictures" in sentence


def test_a_file_or_folder_that_is_called_like_a_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "0" / "1.png", 1)
    refuse_missing(["0"])
    assert [one.name for one in find_images(["0"])] == ["1.png"]


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
