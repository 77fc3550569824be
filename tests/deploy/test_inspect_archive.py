"""inspect.pyz on a machine of its own: the rows, decisions and exit codes of predict.py, without PyTorch."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import export
import predict
from tests.support.exported import exported_to
from tests.support.predictions import RUNTIME, rows
from utils.config import WindowConfig
from utils.errors import ConfigError

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402

from deploy import graph  # noqa: E402


@pytest.fixture(scope="module")
def exported(place, tiny_configs, tmp_path_factory):
    """(saved detector, its ONNX file), with local windows."""
    folder = tmp_path_factory.mktemp("exported")
    file = exported_to(folder, place / "good", tiny_configs, **vars(WindowConfig("mul", 4, 4)))
    return file.with_suffix(".safetensors"), file


@pytest.fixture(scope="module")
def alone(exported, tmp_path_factory):
    """A folder with inspect.pyz alone, as on a machine that has nothing else of ours, and without PyTorch."""
    folder = tmp_path_factory.mktemp("machine")
    shutil.copy(exported[1].with_name("inspect.pyz"), folder)
    for name in ("torch", "cv2", "scipy", "tqdm"):
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    return folder


def inspect_alone(alone, *arguments, **more):
    """Runs inspect.pyz elsewhere; exit code, output and errors."""
    command = [sys.executable, str(alone / "inspect.pyz"), *map(str, arguments)]
    more.setdefault("env", {"PYTHONPATH": str(alone)})
    done = subprocess.run(command, cwd=alone, capture_output=True, text=True, timeout=120, **more)
    return done.returncode, done.stdout, done.stderr


# Regions take scikit-image, and the line has three packages.
PREDICTS_ALONE = ("pixel_threshold", "regions", "mask", "path", "file", "check")


def assert_same_row(given, wanted):
    assert list(given) == [name for name in wanted if name not in PREDICTS_ALONE]
    for name, value in given.items():
        if name in ("score", "base_score", "window_score"):
            assert abs(value - wanted[name]) < 1e-4
        elif name == "normal_percentile":
            assert abs(value - wanted[name]) < 0.1
        elif name == "boxes":
            assert len(value) == len(wanted["boxes"])
            for one, other in zip(value, wanted["boxes"]):
                assert list(one) == list(other)
                np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=0.02, atol=1)
        elif name == "statistics":
            np.testing.assert_allclose(value, wanted[name], rtol=1e-4)
        elif name != "picture":
            assert value == wanted[name]


@pytest.mark.slow
def test_rows_tables_and_exit_codes_are_those_of_predict(place, exported, alone, tmp_path):
    saved, file = exported
    theirs, ours = tmp_path / "predict", tmp_path / "deploy"
    flags = ["--detector", str(saved), "--input", str(place / "parts"), "--output", str(theirs), *RUNTIME]
    code = predict.main([*flags, "--exit-code"])
    found = inspect_alone(alone, file, place / "parts", "--output", ours, "--format", "json", "--exit-code")
    assert found[0] == code == 1
    printed = [json.loads(line) for line in found[1].splitlines()]
    wanted = [json.loads(line) for line in (theirs / "scores.jsonl").read_text().splitlines()]
    written = [json.loads(line) for line in (ours / "scores.jsonl").read_text().splitlines()]
    assert written == [row for row in printed if "error" not in row] and len(wanted) == 4
    for given, other in zip(written, wanted):
        assert_same_row(given, other)
    assert [row["anomalous"] for row in written] == [False, False, True, True]
    tables = rows(ours / "scores.csv"), rows(theirs / "scores.csv")
    assert [*tables[0][0], "picture"] == list(tables[1][0])  # a column that no row fills is left out
    for given, other in zip(*tables):
        assert [given[name] for name in ("image", "threshold", "anomalous", "boxes")] == [
            other[name] for name in ("image", "threshold", "anomalous", "boxes")
        ]
    assert (ours / "skipped.csv").read_text() == (theirs / "skipped.csv").read_text()
    assert "4 photograph(s) scored, 2 anomalous at threshold" in found[2] and "broken.png" in found[2]
    assert sorted(entry.name for entry in ours.iterdir()) == [
        "config.json",
        "scores.csv",
        "scores.jsonl",
        "skipped.csv",
    ]
    again = inspect_alone(alone, file, place / "parts/2.png", "--output", ours)
    assert again[0] == 0 and len(rows(ours / "scores.csv")) == 1 and not (ours / "skipped.csv").exists()


def one_sentence(found, words):
    code, printed, reported = found
    assert code == 2 and printed == "" and words in reported
    assert reported.startswith("error: ") and reported.count("\n") == 1 and "Traceback" not in reported


@pytest.mark.slow
def test_what_is_no_graph_of_ours_is_one_sentence(place, exported, alone, tmp_path):
    content = exported[1].read_bytes()
    (tmp_path / "half.onnx").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.onnx").write_text("no graph")
    model = onnx.load(exported[1])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    for name, words in (
        ("half.onnx", "was not written by export.py, or is cut off"),
        ("text.onnx", "was not written by export.py"),
        ("foreign.onnx", "was not written by export.py"),
        ("missing.onnx", "There is no file"),
    ):
        output = tmp_path / "out"
        one_sentence(inspect_alone(alone, tmp_path / name, place / "parts", "--output", output), words)
        assert not output.exists()


@pytest.mark.slow
@pytest.mark.parametrize("package", ("onnxruntime", "numpy"))
def test_a_missing_package_is_one_sentence(exported, place, alone, tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise ImportError('No module named {package}')")
    found = inspect_alone(
        alone, exported[1], place / "parts", "--format", "json", env={"PYTHONPATH": str(tmp_path)}
    )
    one_sentence(found, f"No module named {package}): pip install onnxruntime numpy pillow")


@pytest.mark.slow
def test_wrong_input_and_output_are_one_sentence(exported, place, alone, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "scores.csv").write_text("somebody's own")
    file, parts = exported[1], place / "parts"
    one_sentence(inspect_alone(alone, file, tmp_path / "nowhere", "--format", "json"), "check the path")
    one_sentence(inspect_alone(alone, file, parts), "--output DIR is needed")
    one_sentence(inspect_alone(alone, file, parts, "--output", tmp_path / "taken"), "name another folder")
    assert (tmp_path / "taken" / "scores.csv").read_text() == "somebody's own"
    code, _, reported = inspect_alone(alone, file, tmp_path / "broken.png", "--output", tmp_path / "out")
    assert code == 2 and "no photograph could be scored" in reported
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["config.json", "skipped.csv"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, words",
    (
        (("--precision", "bf16"), "--precision bf16 is OpenVINO's: add --provider openvino"),
        (("--provider", "openvino"), "pip install onnxruntime-openvino"),
    ),
)
def test_what_cannot_compute_is_one_sentence(exported, place, alone, tmp_path, flags, words):
    if "openvino" in flags and graph.OPENVINO in onnxruntime.get_available_providers():
        pytest.skip("OpenVINO is installed")
    given = exported[1], place / "parts", "--output", tmp_path / "out"
    one_sentence(inspect_alone(alone, *given, *flags), words)
    assert not (tmp_path / "out").exists()


def test_openvino_gets_precision_and_threads(exported, monkeypatch):
    reported, started = [], [graph.OPENVINO, graph.CPU]

    class Session(onnxruntime.InferenceSession):
        def __init__(self, file, options, providers, **more):
            reported.append(providers)
            super().__init__(file, options, providers=[graph.CPU], **more)

        def get_providers(self):
            return started

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [graph.OPENVINO, graph.CPU])
    graph.Graph(exported[1], 3, "openvino", "bf16")
    (name, options), behind = reported[0]
    hints = json.loads(options["load_config"])["CPU"]
    assert (name, options["device_type"], behind) == (graph.OPENVINO, "CPU", graph.CPU)
    assert (hints["INFERENCE_PRECISION_HINT"], hints["INFERENCE_NUM_THREADS"]) == ("bf16", "3")
    graph.Graph(exported[1], 0, "openvino")
    hints = json.loads(reported[1][0][1]["load_config"])["CPU"]
    assert hints["INFERENCE_PRECISION_HINT"] == "f32" and "INFERENCE_NUM_THREADS" not in hints
    started.remove(graph.OPENVINO)
    with pytest.raises(ConfigError, match="OpenVINO could not be started"):
        graph.Graph(exported[1], 0, "openvino")


@pytest.mark.slow
def test_openvino_gives_the_scores_of_predict(place, exported, alone, tmp_path):
    if graph.OPENVINO not in onnxruntime.get_available_providers():
        pytest.skip("needs deploy/requirements-openvino.txt")
    file, flags = tmp_path / "part.onnx", ("--format", "json", "--provider", "openvino")
    export.main(["--detector", str(exported[0]), "--output", str(file), "--operators", "onnx"])
    wanted = inspect_alone(alone, exported[1], place / "parts", "--format", "json")
    given = inspect_alone(alone, file, place / "parts", *flags)
    assert given[0] == wanted[0] == 0 and "warning" not in given[2]
    for ours, theirs in zip(*(found[1].splitlines() for found in (given, wanted)), strict=True):
        assert abs(json.loads(ours).get("score", 0) - json.loads(theirs).get("score", 0)) < 1e-4
    assert "export it with --operators onnx" in inspect_alone(alone, exported[1], place / "parts", *flags)[2]
