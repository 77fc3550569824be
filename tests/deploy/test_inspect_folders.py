"""deploy/inspect.py beside another run, with closed streams and for hostile input: never the rows of another
run, never an exit code that means something else."""

import json
import os
import shutil
import signal
import subprocess
import tarfile

import pytest
from PIL import Image

from tests.support.exported import exported_to, inspect, inspect_command
from tests.support.photographs import draw
from tests.support.predictions import rows
from utils.lock import locked

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

from deploy import results  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(place, tiny_configs, tmp_path_factory):
    """A detector with tiles as export.py writes it."""
    return exported_to(tmp_path_factory.mktemp("exported"), place / "good", tiny_configs, tiles=2)


def in_shell(streams, *arguments):
    """Runs it in a shell with its streams led elsewhere; exit code and what both streams gave."""
    quoted = " ".join(f"'{word}'" for word in inspect_command(*arguments))
    done = subprocess.run(["bash", "-c", f"{quoted} {streams}"], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def content(folder):
    return {
        str(entry.relative_to(folder)): entry.read_bytes() for entry in folder.rglob("*") if entry.is_file()
    }


def test_one_run_at_a_time_for_a_folder(place, file, tmp_path):
    out = tmp_path / "out"
    assert inspect(file, place / "parts", "--output", out)[0] == 0
    before = content(out)
    with locked(out / ".lock", "it", "go"):  # predict.py's own lock
        code, _, reported = inspect(file, place / "good", "--output", out)
        assert (
            code == 2
            and f"is being written by process {os.getpid()}" in reported
            and reported.count("\n") == 1
        )
        (out / ".lock").read_bytes()
    assert content(out) == before
    assert inspect(file, place / "good", "--output", out)[0] == 0
    assert [row["image"] for row in rows(out / "scores.csv")] == ["1.png", "2.png", "3.png"]
    assert sorted(content(out)) == ["config.json", "scores.csv", "scores.jsonl"]


@pytest.mark.parametrize("folder", [".partial", ".partial-inspect"])
def test_a_partial_folder_of_somebody_else_stays(place, file, tmp_path, folder):
    mine = tmp_path / "out" / folder / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, _, reported = inspect(file, place / "good", "--output", tmp_path / "out")
    assert mine.read_text() == "mine"
    assert code == (0 if folder == ".partial" else 2) and ("did not write" in reported) == (code == 2)


def test_what_an_interrupted_run_left_gives_way(tmp_path):
    for left in (
        {},
        {".config.json.abcd1234.tmp": '{"made'},  # where the system has no files without names
        {"config.json": '{"made_by": "deploy/inspect.py"}'},
        {"config.json": '{"made_by": "deploy/inspect.py"}', "pictures/a.jpg": "x"},
        {"config.json": '{"made_by": "deploy/inspect.py"}', "scores.jsonl": '{"image'},
    ):
        for name, text in left.items():
            file = tmp_path / ".partial-inspect" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        folder = results.Folder(tmp_path, {})
        assert folder.finish()
        assert sorted(content(tmp_path)) == ["config.json"] and not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("make", ["empty", "broken"])
def test_a_run_that_scores_nothing_keeps_the_results_of_the_run_before(place, file, tmp_path, make):
    out, nothing = tmp_path / "out", tmp_path / "nothing"
    nothing.mkdir()
    if make == "broken":
        (nothing / "x.png").write_bytes(b"no picture")
    inspect(file, place / "parts", "--output", out)
    before = content(out)
    code, _, reported = inspect(file, nothing, "--output", out)
    assert code == 2 and "no photograph could be scored" in reported
    assert {name: text for name, text in content(out).items() if name != ".lock"} == before


@pytest.mark.parametrize(
    "streams", ["1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-", "2> >(exit)", "1> >(exit)"]
)
def test_closed_and_broken_streams_change_no_exit_code(place, file, tmp_path, streams):
    for limit, wanted in (("1.1", 0), ("0", 1)):
        more = ("--format", "json", "--threshold", limit, "--exit-code")
        given = (file, place / "parts", "--output", tmp_path / "out", *more)
        code, printed, reported = in_shell(streams, *given)
        assert code == wanted and "Traceback" not in reported
        assert all(json.loads(line) for line in printed.splitlines())
        assert len(rows(tmp_path / "out/scores.csv")) == 4
    assert in_shell(streams, file, "--output")[0] == 2


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_one_line(file, tmp_path, number, code):
    draw(tmp_path / "first.png", 1)
    for copy in range(400):
        shutil.copy(tmp_path / "first.png", tmp_path / f"{copy}.png")
    given = inspect_command(file, tmp_path, "--output", tmp_path / "out", "--format", "json")
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(number)
    _, reported = process.communicate(timeout=20)
    assert process.returncode == code and reported.startswith("Interrupted; ") and reported.count("\n") == 1
    assert not (tmp_path / "out/scores.csv").exists()
    assert inspect(file, tmp_path / "first.png", "--output", tmp_path / "out")[0] == 0
    assert sorted(content(tmp_path / "out")) == ["config.json", "scores.csv", "scores.jsonl"]


def test_archives_and_lists_are_read_as_predict_reads_them(place, file, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(place / "good/1.png", "/deep/../1.png")
        tar.add(place / "good/2.png", "2.png")
    (tmp_path / "list.txt").write_bytes(
        b"\xff\xfe" + f'"{place}\\good\\3.png"\r\nshard.tar\r\n'.encode("utf-16-le")
    )
    code, printed, _ = inspect(file, f"@{tmp_path}/list.txt", "--format", "json")
    found = {json.loads(line)["image"]: json.loads(line)["score"] for line in printed.splitlines()}
    assert code == 0 and list(found) == [f"{place}/good/3.png", "shard.tar/1.png", "shard.tar/2.png"]
    code, printed, _ = inspect(file, place / "good", "--format", "json")
    assert [json.loads(line)["score"] for line in printed.splitlines()] == [
        *list(found.values())[1:],
        found[f"{place}/good/3.png"],
    ]


def test_an_escape_code_in_a_flag_does_not_reach_the_terminal(file):
    code, printed, reported = inspect(file, "x\x1b[2J", "--threads", "\x1b[31m")
    assert code == 2 and "\x1b" not in printed + reported


@pytest.mark.parametrize("given", ["rtsp://10.0.0.7/x", "0", "/dev/null"])
def test_a_camera_is_answered_with_what_can_be_done(file, given):
    code, _, reported = inspect(file, given, "--format", "json")
    assert code == 2 and "are read by predict.py --input alone" in reported and reported.count("\n") == 1


def test_pictures_of_a_finished_run(exported, place, tmp_path):
    for kind, count in (("all", 4), ("anomalous", None), ("none", 0)):
        code, _, _ = inspect(exported, place / "parts", "--output", tmp_path / "out", "--pictures", kind)
        assert code == 0
        table = rows(tmp_path / "out/scores.csv")
        wanted = sum(one["anomalous"] == "true" for one in table) if count is None else count
        drawn = [one["picture"] for one in table if one.get("picture")]
        assert len(drawn) == len(set(drawn)) == wanted
        assert all(Image.open(tmp_path / "out" / place).size for place in drawn)
        assert len(list((tmp_path / "out").glob("pictures/*"))) == wanted
