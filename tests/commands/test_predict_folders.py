"""predict.py keeps a user's photographs and its own pictures apart: nothing of the user's is written over,
deleted or mixed up."""

import json
import logging
import os
import shutil

import pytest
from PIL import Image

from data.inputs import RENDERED, find_images, list_images
from tests.support.photographs import draw
from tests.support.predictions import RUNTIME, rows
from tests.support.small_runs import command
from utils.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("one_thread")

predict = command("predict")


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(detector, *arguments):
    return predict.main(
        ["--detector", str(detector), *map(str, arguments), "--device", "cpu", "--workers", "1"]
    )


@pytest.mark.parametrize("name", ["config.json", "report.html", "scores.csv", "pictures/7.png"])
def test_a_folder_with_files_of_somebody_else_is_not_written_into(place, detector, tmp_path, name):
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("{}")
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=f"holds {name.split('/')[0]}, which predict.py did not write"):
        run(detector, "--input", place / "parts", "--output", tmp_path / "mine")
    assert {name: data for name, data in content(tmp_path).items() if ".lock" not in name} == before


def test_a_second_run_removes_its_own_pictures_and_nothing_else(place, detector, tmp_path):
    out = tmp_path / "out"
    run(detector, "--input", place / "parts", "--output", out)
    mine = out / "pictures" / "mine.png"
    mine.write_bytes(b"a photograph of mine")
    (out / "pictures" / "notes").mkdir()
    run(detector, "--input", place / "parts" / "2.png", "--output", out)
    drawn = [row["picture"] for row in rows(out / "scores.csv")]
    assert sorted(path.name for path in (out / "pictures").iterdir()) == sorted(
        ["mine.png", "notes", *(os.path.basename(p) for p in drawn)]
    )
    assert mine.read_bytes() == b"a photograph of mine" and len(drawn) == 1


@pytest.mark.parametrize("picture", ["../victim.jpg", "pictures/../../victim.jpg", "/victim.jpg", 3])
def test_a_forged_list_of_pictures_deletes_nothing_elsewhere(place, detector, tmp_path, picture):
    out, victim = tmp_path / "out", tmp_path / "victim.jpg"
    run(detector, "--input", place / "parts" / "2.png", "--output", out)
    victim.write_bytes(b"x")
    row = json.loads((out / "scores.jsonl").read_text())
    (out / "scores.jsonl").write_text(json.dumps({**row, "picture": picture}) + "\n")
    run(detector, "--input", place / "parts" / "2.png", "--output", out)
    assert victim.exists()


def test_pictures_of_a_run_are_not_taken_for_photographs(place, detector, tmp_path, caplog, logged):
    caplog.set_level(logging.INFO, "fdsl")
    for number in (2, 10):
        draw(tmp_path / "new" / f"{number}.png", number)
    run(detector, "--input", tmp_path / "new", "--output", tmp_path / "new" / "first", "--save-masks")
    run(detector, "--input", tmp_path / "new", "--output", tmp_path / "new" / "second")
    assert len(rows(tmp_path / "new" / "second" / "scores.csv")) == 2
    assert "their pictures are not inspected" in logged()
    draw(tmp_path / "new" / "first" / "own.png", 3)  # a user's own file there is one all the same
    assert len(list_images(tmp_path / "new")) == 3 and len(list_images(str(tmp_path / "new" / "*"))) == 3
    assert all((tmp_path / "new" / "first" / name).exists() for name in RENDERED)


def test_a_folder_called_pictures_is_looked_into_where_no_run_wrote_it(tmp_path):
    draw(tmp_path / "pictures" / "1.png", 1)
    (tmp_path / "config.json").write_text('{"made_by": "somebody"}')
    assert [one.name for one in find_images([tmp_path])] == ["pictures/1.png"]


def test_output_references_and_photographs_must_not_lie_in_each_other(place, backbone, tmp_path):
    good, parts = place / "good", place / "parts"
    for arguments, words in (
        (["--references", good, "--input", parts, "--output", good / "out"], "taken for normal images"),
        (["--references", good, "--input", parts, "--output", good], "taken for normal images"),
        (
            ["--references", good, "--input", tmp_path / "o/pictures", "--output", tmp_path / "o"],
            "--input .* keeps its pictures",
        ),
        (
            ["--references", tmp_path / "o/pictures", "--input", parts, "--output", tmp_path / "o"],
            "--references .* its pictures",
        ),
    ):
        (tmp_path / "o/pictures").mkdir(parents=True, exist_ok=True)
        with pytest.raises(ConfigError, match=words):
            predict.main([*map(str, arguments), *backbone])
    assert not (good / "out").exists()


def test_a_reference_among_the_photographs_is_said(place, backbone, tmp_path, logged):
    predict.main(
        [
            "--references",
            str(place / "good"),
            "--input",
            str(place / "good"),
            str(place / "parts"),
            "--output",
            str(tmp_path / "o"),
            "--pictures",
            "none",
            *backbone,
        ]
    )
    assert (
        all(f"good/{number}.png is one of the references" in logged() for number in (1, 2, 3))
        and "parts/2.png is one" not in logged()
    )


def test_photographs_of_kinds_that_are_not_read_are_listed(place, detector, tmp_path, logged):
    draw(tmp_path / "mix" / "1.png", 1)
    for name in ("phone.HEIC", "camera.CR2", "notes.txt"):
        (tmp_path / "mix" / name).write_bytes(b"x")
    run(detector, "--input", tmp_path / "mix", "--output", tmp_path / "o")
    skipped = {row["image"]: row["reason"] for row in rows(tmp_path / "o" / "skipped.csv")}
    assert {os.path.basename(name) for name in skipped} == {"phone.HEIC", "camera.CR2"}
    assert (
        all("convert it to PNG or JPEG" in reason for reason in skipped.values())
        and "2 file(s) skipped" in logged()
    )


def test_the_output_folder_inside_the_input_is_not_scored(place, detector, tmp_path):
    draw(tmp_path / "in/1.png", 80)
    arguments = [
        "--detector",
        str(detector),
        "--input",
        str(tmp_path / "in"),
        "--output",
        str(tmp_path / "in/out"),
        *RUNTIME,
    ]
    for _ in range(2):
        predict.main(arguments)
        assert [row["image"] for row in rows(tmp_path / "in/out/scores.csv")] == ["1.png"]


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_link_to_itself_is_skipped_by_name(detector, tmp_path, more):
    draw(tmp_path / "in/1.png", 1)
    (tmp_path / "in/self.png").symlink_to("self.png")
    (tmp_path / "in/loop").symlink_to("loop")
    run(detector, "--input", tmp_path / "in", "--output", tmp_path / "out", *more)
    (skipped,) = rows(tmp_path / "out/skipped.csv")
    assert skipped["image"] == "self.png" and "is a link that leads to itself" in skipped["reason"]
    for given in ("in/self.png", "in/loop"):
        with pytest.raises(DataError, match="no photograph could be scored"):
            run(detector, "--input", tmp_path / given, "--output", tmp_path / "other", *more)


def test_a_copy_of_a_reference_is_named(place, detector, tmp_path, logged):
    """Under another name, in another format, by a saved detector too: same pixels, same score as known."""
    draw(tmp_path / "in/new.png", 90)
    shutil.copy(place / "good/1.png", tmp_path / "in/copy.png")
    with Image.open(place / "good/2.png") as photo:
        photo.save(tmp_path / "in/other.bmp")
    (tmp_path / "in/link.png").symlink_to(place / "good/3.png")
    run(detector, "--input", tmp_path / "in", "--output", tmp_path / "out")
    for name, reference in (("copy.png", "1.png"), ("other.bmp", "2.png"), ("link.png", "3.png")):
        assert f"{name} is one of the references ({reference}): its score" in logged()
    assert "new.png is one" not in logged()
