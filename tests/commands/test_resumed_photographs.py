"""predict.py --resume goes by files, not by names alone, and every map belongs to its row."""

import json
import os

import numpy as np
import pytest

from fdsl.store.prediction_folder import PredictionFolder
from fdsl.store.taken_up import TakenUp, maps_digest
from tests.support.photographs import draw
from tests.support.predictions import RUNTIME
from tests.support.small_runs import command

pytestmark = pytest.mark.usefixtures("one_thread")
predict = command("predict")
NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture
def photographs(tmp_path):
    for number, name in enumerate(NAMES):
        draw(tmp_path / "parts" / name, 70 + number)
    return tmp_path / "parts"


def run(detector, photographs, out, *more):
    places = ["--detector", str(detector), "--input", str(photographs), "--output", str(out)]
    return predict.main([*places, "--save-maps", "--batch-size", "1", *RUNTIME, *more])


def lines(out):
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def same_maps(one, two):
    first, second = np.load(one / "maps.npz"), np.load(two / "maps.npz")
    return all(np.array_equal(first[name], second[name]) for name in first.files)


def test_a_photograph_replaced_under_its_name_is_scored_again(detector, photographs, tmp_path, told):
    run(detector, photographs, tmp_path / "out")
    before = {row["image"]: row for row in lines(tmp_path / "out")}
    draw(photographs / "b.png", 99, defect=True)
    (photographs / "c.png").unlink()
    run(detector, photographs, tmp_path / "out", "--resume")
    assert "b.png: its row is left out" in told() and "c.png: its row is left out" in told()
    run(detector, photographs, tmp_path / "anew")
    after, anew = ({row["image"]: row for row in lines(tmp_path / name)} for name in ("out", "anew"))
    assert set(after) == {"a.png", "b.png"} and after == anew
    assert after["a.png"] == before["a.png"] and after["b.png"]["score"] != before["b.png"]["score"]
    assert same_maps(tmp_path / "out", tmp_path / "anew")


def test_a_file_that_was_only_touched_keeps_its_row(detector, photographs, tmp_path, told):
    run(detector, photographs, tmp_path / "out")
    before = lines(tmp_path / "out")
    os.utime(photographs / "a.png", (1, 1))
    run(detector, photographs, tmp_path / "out", "--resume")
    assert lines(tmp_path / "out") == before and "left out" not in told()


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_map_without_its_row_is_cut_off(detector, photographs, tmp_path, monkeypatch, done):
    run(detector, photographs, tmp_path / "whole")
    plain = PredictionFolder.add

    def add(self, row, base, window):
        if sum(1 for _ in open(self.partial / "rows.jsonl")) == done:
            with open(self.partial / "base.f32", "ab") as maps:  # the map is there, its row is not
                maps.write(np.zeros(base.shape, np.float32).tobytes())
            raise KeyboardInterrupt
        plain(self, row, base, window)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFolder, "add", add)
        with pytest.raises(KeyboardInterrupt):
            run(detector, photographs, tmp_path / "out")
    run(detector, photographs, tmp_path / "out", "--resume")
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")
    assert same_maps(tmp_path / "out", tmp_path / "whole")


def test_rows_of_an_earlier_version_are_taken_by_their_names(tmp_path):
    row = {"image": "a.png", "score": 0.5, "grid": 2, "window_score": None}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    known = TakenUp(tmp_path, keep_maps=False)
    assert len(known) == 1 and known.holds("a.png", tmp_path / "nowhere.png")
    assert known.drop_others() == []


def test_what_belongs_to_another_row_ends_what_is_taken_up(tmp_path):
    maps = [np.full((2, 2), number, np.float32).tobytes() for number in range(3)]
    rows = [
        {"image": f"{number}.png", "score": 0.5, "grid": 2, "window_score": None, "maps": maps_digest([own])}
        for number, own in enumerate(maps)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    (tmp_path / "base.f32").write_bytes(maps[0] + maps[2] + maps[1])
    known = TakenUp(tmp_path, keep_maps=True)
    assert len(known) == 1
    assert (tmp_path / "base.f32").read_bytes() == maps[0]
    assert (tmp_path / "rows.jsonl").read_text() == text.splitlines(keepends=True)[0]


def test_rows_that_are_dropped_take_their_maps_along(tmp_path):
    maps = [np.full((2, 2), number, np.float32).tobytes() for number in range(4)]
    for number, own in enumerate(maps):
        row = {
            "image": f"{number}.png",
            "score": 0.5,
            "grid": 2,
            "window_score": None,
            "maps": maps_digest([own]),
        }
        with open(tmp_path / "rows.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
    (tmp_path / "base.f32").write_bytes(b"".join(maps))
    known = TakenUp(tmp_path, keep_maps=True)
    for name in ("3.png", "1.png"):
        assert known.holds(name, tmp_path)
    assert known.drop_others() == ["0.png", "2.png"]
    assert (tmp_path / "base.f32").read_bytes() == maps[1] + maps[3]
    again = TakenUp(tmp_path, keep_maps=True)
    assert (
        len(again) == len(known) == 2
        and again.holds("3.png", tmp_path)
        and not again.holds("0.png", tmp_path)
    )


def test_skipped_csv_of_an_earlier_run_does_not_stay(detector, photographs, tmp_path):
    (photographs / "broken.png").write_bytes(b"no picture")
    run(detector, photographs, tmp_path / "out")
    assert (tmp_path / "out/skipped.csv").exists()
    (photographs / "broken.png").unlink()
    run(detector, photographs, tmp_path / "out", "--resume")
    assert not (tmp_path / "out/skipped.csv").exists()


def test_another_shape_than_the_references_is_said_once(detector, tmp_path, told):
    for number in range(2):
        draw(tmp_path / "parts" / f"{number}.png", number, size=(240, 60))
    run(detector, tmp_path / "parts", tmp_path / "out")
    assert told().count("of another shape than the references") == told().count("device cpu:") > 0


def test_inputs_that_overlap_give_the_same_rows_when_they_are_resumed(detector, photographs, tmp_path):
    draw(photographs / "\x1b.png", 80)
    draw(photographs / "\\x1b.png", 81)
    inputs = ["--input", str(photographs), str(photographs / "b.png"), str(photographs / "*.png")]
    base = ["--detector", str(detector), *inputs, "--batch-size", "1", "--pictures", "none", *RUNTIME]
    predict.main([*base, "--output", str(tmp_path / "whole")])
    whole = lines(tmp_path / "whole")
    assert len(whole) == len({row["image"] for row in whole}) == 5
    kept = tmp_path / "whole/scores.jsonl"
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:2]))
    predict.main([*base, "--output", str(tmp_path / "whole"), "--resume"])
    assert lines(tmp_path / "whole") == whole


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_picture_that_a_killed_run_left_half_written_is_removed(detector, photographs, tmp_path, more):
    run(detector, photographs, tmp_path / "out", "--resume")
    half = tmp_path / "out/pictures/.a.png_b53664a9.jpg.m0shbz5h.tmp"
    half.write_bytes(b"")
    (tmp_path / "out/pictures/.mine.tmp").write_bytes(b"")
    run(detector, photographs, tmp_path / "out", *more)
    assert not half.exists() and (tmp_path / "out/pictures/.mine.tmp").exists()
