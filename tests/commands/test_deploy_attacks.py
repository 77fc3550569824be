"""deploy/inspect.py beside another run, with closed streams and with hostile files: never the rows of another
run, never an exit code that means something else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile

import pytest
from PIL import Image

from tests.support.constants import ROOT
from tests.support.exported import exported_to
from tests.support.photographs import draw
from tests.support.predictions import rows
from utils.lock import locked

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
onnx = pytest.importorskip("onnx", reason="export needs requirements-export.txt")

from deploy import graph, results  # noqa: E402
from deploy.metadata import FIELDS  # noqa: E402
from utils.errors import ConfigError, DataError  # noqa: E402
from utils.files import facts_digest  # noqa: E402
from utils.image_statistics import PER_IMAGE  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(place, tiny_configs, tmp_path_factory):
    """A detector with tiles as export.py writes it."""
    return exported_to(tmp_path_factory.mktemp("exported"), place / "good", tiny_configs, tiles=2)


def command(*arguments):
    return [sys.executable, str(ROOT / "deploy/inspect.py"), *map(str, arguments)]


def inspect(*arguments):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def in_shell(streams, *arguments):
    """Runs it in a shell with its streams led elsewhere; exit code and what both streams gave."""
    quoted = " ".join(f"'{word}'" for word in command(*arguments))
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
    given = command(file, tmp_path, "--output", tmp_path / "out", "--format", "json")
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(number)
    _, reported = process.communicate(timeout=20)
    assert process.returncode == code and reported.startswith("Interrupted; ") and reported.count("\n") == 1
    assert not (tmp_path / "out/scores.csv").exists()
    assert inspect(file, tmp_path / "first.png", "--output", tmp_path / "out")[0] == 0
    assert sorted(content(tmp_path / "out")) == ["config.json", "scores.csv", "scores.jsonl"]


FACTS = [
    {"image_size": "9" * 30},
    {"threshold": "nan"},
    {"tiles": "[" * 100_000},
    {"settings": None},
    {"digest": None},
    {"digest": "\x1b[2J"},
    {"fdsl_format": "3\n\x1b[2J"},
    {"fdsl_format": "1" * 10_000},
]


def changed(file, target, change):
    model = onnx.load(file)
    change(model)
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: json.dumps(facts)[:40])
def test_a_file_whose_metadata_was_changed_is_refused(file, tmp_path, facts):
    def change(model):
        entries = {entry.key: entry.value for entry in model.metadata_props} | facts
        del model.metadata_props[:]
        for key, value in entries.items():
            if value is not None:
                model.metadata_props.add(key=key, value=value)

    with pytest.raises(ConfigError) as raised:
        graph.Graph(changed(file, tmp_path / "odd.onnx", change))
    sentence = str(raised.value)
    assert "odd.onnx" in sentence and sentence.isprintable() and len(sentence) < 600


def small_graph(outputs, shape=("n", 3, 8, 8), name="pixels", **more):
    """A model of ours whose graph gives what `outputs` say: name -> (shape, values). `more`: metadata."""
    from onnx import TensorProto, helper

    makers = [
        helper.make_node("Constant", [], [output], value=helper.make_tensor(output, made, size, values))
        for output, (made, size, values) in outputs.items()
    ]
    gives = [helper.make_tensor_value_info(output, made, size) for output, (made, size, _) in outputs.items()]
    takes = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape)]
    model = helper.make_model(
        helper.make_graph(makers, "g", takes, gives),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    facts = dict.fromkeys(("threshold", "map_threshold", "normal_mean", "normal_deviation"), "")
    facts |= {"heat_low": "0", "heat_high": "1"}
    facts |= {"grey_low": "", "grey_high": "", "tiles": "", "settings": "{}"}
    facts |= {"fdsl_format": graph.FORMAT, "image_size": "8", "reference_sizes": "[]"}
    facts |= {"reference_statistics": "[]", **more}
    facts["digest"] = facts_digest(facts)
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    return model


FLOAT, WHOLE = 1, 7  # onnx.TensorProto
RIGHT = {
    "map": (FLOAT, [1, 2, 2], [0, 0, 0, 1]),
    "score": (FLOAT, [1], [0.5]),
    "base_score": (FLOAT, [1], [0.5]),
}


def test_a_small_graph_is_taken(tmp_path, place):
    onnx.save(small_graph(RIGHT), tmp_path / "small.onnx")
    code, printed, reported = inspect(tmp_path / "small.onnx", place / "good", "--format", "json")
    assert code == 0 and [json.loads(line)["score"] for line in printed.splitlines()] == [0.5] * 3, reported


TILES = {"width": 8, "height": 8, "origins": [[0, 0]]}
FORGED = [
    *({name: value} for name in FIELDS for value in ("NaN", "1e400", "9" * 5000, "true", "x", "{}", "[[]")),
    *({name: value} for name in ("image_size", "heat_low") for value in ("", "-1e30", "[1]")),
    *({"reference_sizes": value} for value in ("[[0, 0]]", "[[1]]", '[["a", "b"]]', "[1]", "null")),
    *({"reference_statistics": value} for value in ("[[1, 2]]", "1", json.dumps([[1e308] * PER_IMAGE]))),
    *({"settings": value} for value in ("[]", "1", '{"a": 1e999}', '{"a":' * 500 + "1" + "}" * 500)),
    *({"tensors": value} for value in ("[" * 100_000, "1", '{"file": "../x", "digest": ""}')),
    *({"tiles": json.dumps(TILES | one)} for one in ({"width": 0}, {"height": 10**9}, {"origins": [[5, 0]]})),
    {"tiles": "[1]"},
    {"heat_low": "0.5", "heat_high": "0.5"},
]


@pytest.mark.parametrize("facts", FORGED, ids=lambda facts: json.dumps(facts)[:40])
def test_metadata_that_another_program_wrote_with_a_right_digest_is_refused(tmp_path, facts):
    shape = ("n", 2, 3, 8, 8) if "tiles" in facts else ("n", 3, 8, 8)
    onnx.save(small_graph(RIGHT, shape, **facts), tmp_path / "odd.onnx")
    with pytest.raises(ConfigError, match="its metadata is not whole") as raised:
        graph.Graph(tmp_path / "odd.onnx")
    assert str(raised.value).isprintable() and len(str(raised.value)) < 600


def test_tiles_that_the_graph_takes_are_read(tmp_path):
    onnx.save(small_graph(RIGHT, ("n", 2, 3, 8, 8), tiles=json.dumps(TILES)), tmp_path / "tiles.onnx")
    assert graph.Graph(tmp_path / "tiles.onnx").tiles == (8, 8, ((0, 0),))


@pytest.mark.parametrize(
    "model",
    [
        small_graph(RIGHT, shape=("n", 3, 9, 9)),
        small_graph(RIGHT, name="image"),
        small_graph({"score": RIGHT["score"], "base_score": RIGHT["score"]}),
        small_graph({**RIGHT, "map": (FLOAT, [1, 2, 3], [0] * 6)}),
        small_graph({**RIGHT, "map": (FLOAT, [1], [0])}),
        small_graph({**RIGHT, "map": (FLOAT, [1, 0, 0], [])}),
        small_graph({**RIGHT, "map": (WHOLE, [1, 2, 2], [0] * 4)}),
        small_graph({**RIGHT, "score": (FLOAT, [1, 2], [0, 0])}),
        small_graph({**RIGHT, "score": (FLOAT, [1], [float("nan")])}),
        small_graph({**RIGHT, "window_score": (FLOAT, [1, 2], [0, 0])}),
    ],
)
def test_a_graph_that_is_no_detectors_is_one_sentence(tmp_path, place, model):
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises((ConfigError, DataError)) as raised, Image.open(place / "good/1.png") as photo:
        graph.Graph(tmp_path / "odd.onnx").look_at(photo.convert("RGB"), "1.png")
    assert str(raised.value).isprintable() and "\n" not in str(raised.value)


def test_a_file_whose_texts_are_none_is_one_sentence_and_nothing_is_printed(tmp_path, capfd):
    content = small_graph(RIGHT).SerializeToString()
    (tmp_path / "odd.onnx").write_bytes(content.replace(b"Constant", b"Con\xfbtant"))
    with pytest.raises(ConfigError, match="is not a whole ONNX file") as raised:
        graph.Graph(tmp_path / "odd.onnx")
    assert str(raised.value).isprintable() and capfd.readouterr().out == ""


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
