"""predict.py --resume goes by files, not by names alone, and every map belongs to its row."""

import json
import os
import shutil

import numpy as np
import pytest

from fdsl.api import AnomalyDetector
from fdsl.store.journal import Journal, RowIndex, maps_in
from tests.support.photographs import draw
from tests.support.predictions import RUNTIME, stored_row
from tests.support.small_runs import command
from utils.errors import ConfigError, DataError
from utils.files import stamp_of

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


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_maps(one, two):
    first, second = np.load(one / "maps.npz"), np.load(two / "maps.npz")
    return all(np.array_equal(first[name], second[name]) for name in first.files)


def test_a_photograph_replaced_under_its_name_is_scored_again(detector, photographs, tmp_path, logged):
    run(detector, photographs, tmp_path / "out")
    before = {row["image"]: row for row in lines(tmp_path / "out")}
    draw(photographs / "b.png", 99, defect=True)
    (photographs / "c.png").unlink()
    run(detector, photographs, tmp_path / "out", "--resume")
    assert "b.png: its row is left out" in logged() and "c.png: its row is left out" in logged()
    run(detector, photographs, tmp_path / "anew")
    after, anew = ({row["image"]: row for row in lines(tmp_path / name)} for name in ("out", "anew"))
    assert set(after) == {"a.png", "b.png"} and after == anew
    assert after["a.png"] == before["a.png"] and after["b.png"]["score"] != before["b.png"]["score"]
    assert same_maps(tmp_path / "out", tmp_path / "anew")
    assert content(tmp_path / "out").keys() == content(tmp_path / "anew").keys()  # also the pictures


def test_a_file_that_was_only_touched_keeps_its_row(detector, photographs, tmp_path, logged):
    run(detector, photographs, tmp_path / "out")
    before = lines(tmp_path / "out")
    os.utime(photographs / "a.png", (1, 1))
    run(detector, photographs, tmp_path / "out", "--resume")
    assert lines(tmp_path / "out") == before and "left out" not in logged()


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_row_that_was_half_written_is_scored_again(detector, photographs, tmp_path, monkeypatch, done):
    run(detector, photographs, tmp_path / "whole")
    plain = Journal.add

    def add(self, row, base, window):
        journal = self.folder / "rows.jsonl"
        before = journal.read_bytes()
        plain(self, row, base, window)
        if before.count(b"\n") == done:
            journal.write_bytes(journal.read_bytes()[:-9])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", add)
        with pytest.raises(KeyboardInterrupt):
            run(detector, photographs, tmp_path / "out")
    run(detector, photographs, tmp_path / "out", "--resume")
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")
    assert same_maps(tmp_path / "out", tmp_path / "whole")


def a_journal(folder, source, count, keep_maps=True):
    """A journal of so many rows, of files that are drawn into `source`."""
    journal = Journal(folder, keep_maps)
    for number in range(count):
        name = f"{number}.png"
        draw(source / name, number)
        row = stored_row(name, file=stamp_of(source / name))
        journal.add(row, np.full((2, 2), number), None)
    journal.close()
    return (folder / "rows.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("change", ["of another", "none", "no base64"])
def test_maps_that_are_not_the_rows_end_what_is_taken_up(tmp_path, change):
    rows = a_journal(tmp_path / "j", tmp_path, 3)
    (row, _), maps = rows[1].split(b"\t"), rows[2].split(b"\t")[1]
    other = {"of another": row + b"\t" + maps, "none": row + b"\n", "no base64": row + b"\t!\n"}[change]
    (tmp_path / "j/rows.jsonl").write_bytes(rows[0] + other + rows[2])
    index = RowIndex([tmp_path / "j"], keep_maps=True)
    assert index.line("0.png") == rows[0] and index.line("1.png") is index.line("2.png") is None
    assert (tmp_path / "j/rows.jsonl").read_bytes() == rows[0]


def test_rows_are_found_with_their_maps(tmp_path):
    """In both journals; of two rows of one name the first counts."""
    rows = a_journal(tmp_path / "i", tmp_path, 2) + a_journal(tmp_path / "j", tmp_path, 4)[2:]
    index = RowIndex([tmp_path / "i", tmp_path / "none", tmp_path / "j"], keep_maps=True)
    for name in ("3.png", "1.png"):
        assert index.holds(name, tmp_path / name)
    assert index.done == 2 and {row["image"] for row in index.others()} == {"0.png", "2.png"}
    assert [index.line(f"{number}.png") for number in range(5)] == [*rows, None]
    assert maps_in(rows[3], 2).tolist() == [[[3, 3], [3, 3]]]


CHANGES = {
    "cut off": lambda row: row[:-9],
    "without its end": lambda row: row.rstrip(),
    "another score": lambda row: row.replace(b'"score": 0.5', b'"score": 0.6'),
    "a value too few": lambda row: row.replace(b', "score": 0.5', b""),
    "no number": lambda row: row.replace(b"0.5", b"NaN"),
    "no digest": lambda row: row.replace(b'"check"', b'"other"'),
    "no row": lambda row: b"[1, 2]\n",
    "too deep": lambda row: b"[" * 100_000 + b"\n",
    "zeros": lambda row: bytes(len(row)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_was_changed_ends_what_is_taken_up(tmp_path, change):
    rows = a_journal(tmp_path / "j", tmp_path, 3, keep_maps=False)
    (tmp_path / "j/rows.jsonl").write_bytes(rows[0] + CHANGES[change](rows[1]) + rows[2])
    index = RowIndex([tmp_path / "j"], keep_maps=False)
    assert index.holds("0.png", tmp_path / "0.png") and not index.holds("2.png", tmp_path / "2.png")
    assert (tmp_path / "j/rows.jsonl").read_bytes() == rows[0] and index.others() == []


def test_a_run_goes_on_from_rows_that_somebody_changed(detector, photographs, tmp_path):
    run(detector, photographs, tmp_path / "whole")
    run(detector, photographs, tmp_path / "out")
    kept = tmp_path / "out/scores.jsonl"
    rows = lines(tmp_path / "out")
    del rows[1]["boxes"]
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows) + "[1, 2]\n")
    run(detector, photographs, tmp_path / "out", "--resume")
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")


def test_no_path_of_a_row_leads_out_of_the_output_folder(detector, photographs, tmp_path):
    run(detector, photographs, tmp_path / "out")
    (tmp_path / "mine.jpg").write_text("mine")
    text = (tmp_path / "out/scores.jsonl").read_text()
    row = {**json.loads(text.splitlines()[0]), "picture": "pictures/../../mine.jpg"}
    journal = Journal(tmp_path / "j", keep_maps=False)
    journal.add(row, None, None)
    journal.close()
    shutil.copy(tmp_path / "j/rows.jsonl", tmp_path / "out/scores.jsonl")
    run(detector, photographs, tmp_path / "out")
    assert (tmp_path / "mine.jpg").read_text() == "mine"


@pytest.mark.parametrize("kind", ["bmp", "tif", "png"])
def test_another_photograph_of_the_same_size_and_time_is_scored_again(detector, tmp_path, kind):
    file, other = tmp_path / f"parts/a.{kind}", tmp_path / f"other.{kind}"
    draw(file, 1)
    draw(other, 2, defect=True)
    for one in (file, other):  # a PNG's end may hold anything
        one.write_bytes(one.read_bytes().ljust(20_000, b"\0"))
    run(detector, tmp_path / "parts", tmp_path / "out")
    (before,) = lines(tmp_path / "out")
    facts = file.stat()
    file.write_bytes(other.read_bytes())
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    run(detector, tmp_path / "parts", tmp_path / "out", "--resume")
    (after,) = lines(tmp_path / "out")
    assert after["score"] != before["score"] and after["anomalous"] and not before["anomalous"]


@pytest.mark.parametrize("nothing", ["empty", "broken"])
@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_run_that_scores_nothing_keeps_the_results_of_the_run_before(
    detector, photographs, tmp_path, nothing, more, logged
):
    (tmp_path / "in").mkdir()
    shutil.copy(photographs / "a.png", tmp_path / "in")
    run(detector, tmp_path / "in", tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "in/a.png").unlink()
    if nothing == "broken":
        (tmp_path / "in/x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no photograph could be scored"):
        run(detector, f"{tmp_path}/in/.", tmp_path / "out", *more)  # config.json names it otherwise
    assert content(tmp_path / "out") == before
    assert "results of the run before" in logged() and "skipped.csv" not in logged()
    shutil.copy(photographs / "b.png", tmp_path / "in")
    run(detector, tmp_path / "in", tmp_path / "out", "--pictures", "none")
    assert [row["image"] for row in lines(tmp_path / "out")] == ["b.png"]
    assert not (tmp_path / "out/pictures").exists()


@pytest.mark.parametrize("stopped", [0, 1, 2])
def test_the_results_of_the_run_before_stay_until_the_new_ones_are_complete(
    detector, photographs, tmp_path, monkeypatch, stopped
):
    run(detector, photographs, tmp_path / "out")
    before = content(tmp_path / "out")
    for more in ((), ("--resume",), ()):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_at(patch, 0 if more else stopped)
            run(detector, photographs, tmp_path / "out", "--threshold", "0.9", *more)
        left = content(tmp_path / "out")
        assert {name: left[name] for name in before} == before
    run(detector, photographs, tmp_path / "out", "--threshold", "0.9", "--resume")
    run(detector, photographs, tmp_path / "anew", "--threshold", "0.9")
    assert lines(tmp_path / "out") == lines(tmp_path / "anew")
    assert content(tmp_path / "out").keys() == content(tmp_path / "anew").keys()


def stop_at(patch, count):
    """Makes a run break off after so many batches."""
    plain, seen = AnomalyDetector.begin_batch, []

    def begin_batch(self, *given):
        seen.append(1)
        if len(seen) > count:
            raise KeyboardInterrupt
        return plain(self, *given)

    patch.setattr(AnomalyDetector, "begin_batch", begin_batch)


@pytest.mark.parametrize("stopped", [1, 2])
def test_pictures_of_interrupted_runs_go_with_them(detector, photographs, tmp_path, monkeypatch, stopped):
    """Also where one is interrupted, begun anew and interrupted again before its first row."""
    for count in (stopped, 0):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_at(patch, count)
            run(detector, photographs, tmp_path / "out")
    (photographs / "a.png").unlink()
    (photographs / "b.png").unlink()
    run(detector, photographs, tmp_path / "out")
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_partial_folder_of_somebody_else_stays(detector, photographs, tmp_path, kind, more):
    (tmp_path / "out").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    partial = tmp_path / "out/.partial"
    if kind == "link":
        partial.symlink_to(tmp_path / "mine")
    elif kind == "file":
        partial.write_text("mine")
    else:
        shutil.copytree(tmp_path / "mine", partial)
    before = content(tmp_path / "out")
    with pytest.raises(ConfigError, match="holds .partial, which predict.py did not write"):
        run(detector, photographs, tmp_path / "out", *more)
    assert {name: text for name, text in content(tmp_path / "out").items() if ".lock" not in name} == before
    assert (tmp_path / "mine/thesis.txt").read_text() == "mine"


def test_skipped_csv_of_an_earlier_run_does_not_stay(detector, photographs, tmp_path):
    (photographs / "broken.png").write_bytes(b"no picture")
    run(detector, photographs, tmp_path / "out")
    assert (tmp_path / "out/skipped.csv").exists()
    (photographs / "broken.png").unlink()
    run(detector, photographs, tmp_path / "out", "--resume")
    assert not (tmp_path / "out/skipped.csv").exists()


def test_another_shape_than_the_references_is_said_once(detector, tmp_path, logged):
    for number in range(2):
        draw(tmp_path / "parts" / f"{number}.png", number, size=(240, 60))
    run(detector, tmp_path / "parts", tmp_path / "out")
    assert logged().count("of another aspect ratio than the references") == logged().count("device cpu:") > 0


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
def test_a_picture_that_a_killed_run_left_half_written_is_removed(
    detector, photographs, tmp_path, monkeypatch, more
):
    run(detector, photographs, tmp_path / "out")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 2)
        run(detector, photographs, tmp_path / "out")
    half = tmp_path / "out/.partial/rank0/pictures/.a.png_b53664a9.jpg.m0shbz5h.tmp"
    half.write_bytes(b"")
    (tmp_path / "out/pictures/.mine.tmp").write_bytes(b"")
    run(detector, photographs, tmp_path / "out", *more)
    left = [path.name for path in (tmp_path / "out").rglob("*.tmp")]
    assert left == [".mine.tmp"] and not (tmp_path / "out/.partial").exists()
