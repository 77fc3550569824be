"""Photographs in tar archives and in lists: which they are, and that they are read as if they lay by
themselves."""

import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest

from data.images import open_image
from data.inputs import find_images, refuse_missing
from data.photographs import read_ahead
from tests.support.photographs import draw
from utils.errors import DataError
from utils.files import stamp_of
from utils.sources import contents_of, facts_of


def make_tar(file, members, mode="w"):
    """An archive of (name, bytes)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


@pytest.fixture
def place(tmp_path):
    """shards/0.tar and 1.tar in webdataset's layout, and the same photographs by themselves."""
    for number in range(4):
        draw(tmp_path / "loose" / f"{number}.png", number)
    photos = [(tmp_path / "loose" / f"{number}.png").read_bytes() for number in range(4)]
    for shard in (0, 1):
        members = []
        for number in (2 * shard, 2 * shard + 1):
            members += [
                (f"./{number}.json", b"{}"),
                (f"./{number}.png", photos[number]),
                (f"{number}.cls", b"1"),
            ]
        make_tar(
            tmp_path / "shards" / f"{shard}.tar", [*members, ("._0.png", b"x"), ("deep/.hidden.png", b"x")]
        )
    return tmp_path


def names(*inputs):
    return [one.name for one in find_images([str(item) for item in inputs])]


def test_an_archives_members_are_named_by_it(place):
    assert names(place / "shards/1.tar") == ["1.tar/2.png", "1.tar/3.png"]
    assert names(place / "shards/*.tar") == ["0.tar/0.png", "0.tar/1.png", "1.tar/2.png", "1.tar/3.png"]
    assert names(place / "shards/0.tar", place / "shards/0.tar") == [
        f"{place}/shards/0.tar/0.png",
        f"{place}/shards/0.tar/1.png",
    ]
    assert names(place / "shards") == [], "a folder may hold archives of anything"


def test_a_member_is_read_as_its_file(place):
    for number in range(4):
        member = place / f"shards/{number // 2}.tar/{number}.png"
        loose = place / f"loose/{number}.png"
        assert np.array_equal(open_image(member), open_image(loose))
        assert stamp_of(member)["digest"] == stamp_of(loose)["digest"]
        assert facts_of(member).size == loose.stat().st_size
    found = list(read_ahead(find_images([place / "shards/*.tar"]), 32, 2, 2, stamped=True))
    assert [item.reason for item in found] == [""] * 4


def test_what_is_no_photograph_is_one_sentence(place):
    file = make_tar(place / "odd.tar", [("a.png", b"no picture"), ("b.png", b"")])
    found = {item.name: item.reason for item in read_ahead(find_images([file]), 32, 1, 1)}
    assert (
        "is not an image of a known format" in found["odd.tar/a.png"] and "is empty" in found["odd.tar/b.png"]
    )
    with pytest.raises(DataError, match="gone.png: is missing"):
        open_image(file / "gone.png")


def test_an_archive_that_is_not_whole_or_compressed(place):
    file = place / "shards/0.tar"
    content = file.read_bytes()
    (place / "cut.tar").write_bytes(content[: content.index(b"PNG") + 20])
    (place / "text.tar").write_text("no archive")
    (place / "joined.tar").write_bytes(content + content)
    second = content.index(b"1.png")
    (place / "damaged.tar").write_bytes(content[:second] + b"x" + content[second + 1 :])
    for name in ("cut.tar", "text.tar", "joined.tar", "damaged.tar"):
        with pytest.raises(DataError, match=f"{name}: is no whole tar archive"):
            names(place / name)
    with pytest.raises(DataError, match="is a compressed archive"):
        names(make_tar(place / "a.tar.gz", [("a.png", b"x")], "w:gz"))
    with zipfile.ZipFile(place / "a.zip", "w") as packed:
        packed.writestr("a.png", b"x")
    with pytest.raises(DataError, match="is a compressed archive"):
        names(place / "a.zip")


def test_a_member_never_leads_out_of_its_archive(place):
    """Names from elsewhere: absolute, with .., and, on this disk, of a file that lies there."""
    secret, photo = place / "secret.png", (place / "loose/0.png").read_bytes()
    draw(secret, 77)
    outside = [str(secret), "../secret.png", "../../../secret.png", f"a/../../{secret.name}", "//x/y.png"]
    for number, name in enumerate(outside):
        file = make_tar(place / "tars" / f"{number}.tar", [(name, photo)])
        ((name, path, *_),) = find_images([file])
        assert path.is_relative_to(file) and ".." not in name
        assert np.array_equal(open_image(path), open_image(place / "loose/0.png"))
        assert stamp_of(path)["digest"] == stamp_of(place / "loose/0.png")["digest"]


def add_links(file, links, kind):
    with tarfile.open(file, "a") as tar:
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)


def test_links_are_followed_within_the_archive_or_named(place):
    draw(place / "outside.png", 5)
    photo = (place / "loose/1.png").read_bytes()
    file = make_tar(place / "links.tar", [("deep/1.png", photo), ("notes.txt", b"")])
    soft = [("deep/2.png", "1.png"), ("3.png", "deep/2.png"), ("4.png", "./deep/../deep/1.png")]
    out = [("5.png", str(place / "outside.png")), ("6.png", "../outside.png"), ("7.png", "8.png")]
    add_links(file, [*soft, *out, ("8.png", "7.png"), ("link.txt", "gone")], tarfile.SYMTYPE)
    add_links(file, [("9.png", "deep/1.png"), ("10.png", "deep/gone.png")], tarfile.LNKTYPE)
    add_links(file, [("pipe.png", "")], tarfile.FIFOTYPE)
    items = list(find_images([file]))
    found = {one.name: one.path for one in items if one.path}
    assert sorted(found) == [f"links.tar/{name}.png" for name in ("3", "4", "9", "deep/1", "deep/2")]
    for path in found.values():
        assert np.array_equal(open_image(path), open_image(place / "loose/1.png"))
    named = {one.name.rpartition("/")[2]: one.reason for one in items if not one.path}
    assert "is a device or a pipe" in named.pop("pipe.png")
    assert list(named) == [f"{n}.png" for n in (5, 6, 7, 8, 10)]
    assert all("is a link to" in reason for reason in named.values())


def test_an_archive_that_changed_is_listed_anew(place):
    file = make_tar(place / "new.tar", [("a.png", b"1")])
    assert list(contents_of(file)[0]) == ["a.png"]
    make_tar(file, [("b.png", b"1"), ("c.png", b"22")])
    assert list(contents_of(file)[0]) == ["b.png", "c.png"]


def test_a_folder_may_be_called_like_an_archive(tmp_path):
    draw(tmp_path / "line.tar" / "1.png", 1)
    assert names(tmp_path / "line.tar") == ["1.png"]
    assert open_image(tmp_path / "line.tar" / "1.png").size == (80, 60)


def test_a_list_names_files_relative_to_itself(place):
    lines = ["loose/3.png", "", "loose/0.png  ", "loose/gone.png", "loose/3.png", "shards/1.tar"]
    (place / "list.txt").write_text("\n".join([*lines, "/elsewhere/x.png"]))
    found = list(find_images([f"@{place}/list.txt"]))
    assert [one.name for one in found] == [
        "loose/3.png",
        "loose/0.png",
        "loose/gone.png",
        "shards/1.tar/2.png",
        "shards/1.tar/3.png",
        "/elsewhere/x.png",
    ]
    assert [one.path.is_file() for one in found] == [True, True, False, False, False, False]
    reasons = [item.reason for item in read_ahead(found, 32, 1, 1)]
    assert reasons[2].startswith("is missing") and reasons[:2] == ["", ""] == reasons[3:5]


@pytest.mark.parametrize(
    "mark, encoding",
    [
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
        (b"\xff\xfe\0\0", "utf-32-le"),
        (b"", "utf-8"),
        (b"", "cp1252"),
    ],
)
@pytest.mark.parametrize("ends", ["\r\n", "\n", "\r"])
def test_a_list_is_read_as_editors_write_it(place, mark, encoding, ends):
    draw(place / "loose" / "Prüfteil ' 7.png", 9)
    lines = ["loose/3.png", '"loose/0.png"', "loose\\1.png", '"loose\\2.png"', "loose\\Prüfteil ' 7.png"]
    (place / "list.txt").write_bytes(mark + (ends.join(lines) + ends).encode(encoding))
    found = list(find_images([f"@{place}/list.txt"]))
    wanted = ["loose/3.png", "loose/0.png", "loose/1.png", "loose/2.png", "loose/Prüfteil ' 7.png"]
    assert [one.name for one in found] == wanted and all(one.path.is_file() for one in found)


def test_a_name_with_backslashes_and_quotes_is_taken_as_it_stands(place):
    for name in ("a\\b.png", '"c.png"'):
        shutil.copy(place / "loose/1.png", place / name)
    (place / "list.txt").write_text('a\\b.png\n"c.png"\nshards\\1.tar\n"shards/0.tar/0.png"\n')
    found = [one.path for one in find_images([f"@{place}/list.txt"])]
    assert [path.name for path in found] == ["a\\b.png", '"c.png"', "2.png", "3.png", "0.png"]
    assert len([open_image(path) for path in found]) == 5


@pytest.mark.parametrize("content", [b"l\0o\0o\0s\0e\0", b"\xff\xfel\0o", b"\xff\xfe\x00\xd8", b"a\0b.png"])
def test_a_list_that_is_no_text_is_one_sentence(place, content):
    (place / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match="@.*list.txt: is no .*save it as UTF-8"):
        names(f"@{place}/list.txt")


def test_a_list_that_is_not_there(place):
    refuse_missing([place / "loose", place / "shards/*.tar"])
    for look in (names, lambda given: refuse_missing([given])):
        with pytest.raises(DataError, match="there is no list .*gone.txt; check the path"):
            look(f"@{place}/gone.txt")


def test_a_file_whose_name_begins_like_a_list_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "@1.png", 1)
    (tmp_path / "1.png").touch()
    assert names("@1.png") == ["@1.png"]
