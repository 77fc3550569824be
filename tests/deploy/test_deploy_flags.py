"""The command lines of deploy/inspect.py and deploy/serve.py, and their settings in files."""

import builtins
import fnmatch
import json
import os
import re

import pytest

from fdsl.export.inspect_archive import PROGRAMS
from tests.support.constants import ROOT
from tests.support.running_service import SECRET
from utils.errors import ConfigError

pytest.importorskip("onnxruntime", reason="deploy needs onnxruntime")
pytest.importorskip("onnx", reason="export needs requirements-export.txt")

from deploy import inspect_command, serve_command  # noqa: E402

INSPECT, SERVE = inspect_command.parse, serve_command.parse


def test_what_was_given_is_given_again_by_the_file(tmp_path):
    file, photos = tmp_path / "line.yaml", str(tmp_path)
    flags = ["--watch", photos, "--output", "out", "--settle", "0.5", "--exit-code", "--threshold", "0.4"]
    given = INSPECT(["part.onnx", *flags, "--save-config", str(file)])
    again = INSPECT(["part.onnx", "--config", str(file)])
    assert vars(again) == {**vars(given), "config": file, "save_config": None}
    assert INSPECT(["part.onnx", "--config", str(file), "--threshold", "2"]).threshold == 2
    text = file.read_text()
    assert "settle: 0.5\n" in text and "exit-code: true\n" in text and "max-pixels" not in text


def test_photographs_may_stand_between_flags(tmp_path):
    (tmp_path / "line.yaml").write_text("format: json\n")
    args = INSPECT(["part.onnx", "--config", str(tmp_path / "line.yaml"), "a.png", "--exit-code", "b.png"])
    assert args.input == ["a.png", "b.png"] and args.format == "json" and args.exit_code


def test_a_token_is_not_written(tmp_path):
    file, token = tmp_path / "serve.yaml", "0123456789abcdef"
    SERVE(["part.onnx", "--port", "0", "--token", token, "--save-config", str(file)])
    assert file.read_text().endswith("port: 0\n") and token not in file.read_text()
    assert SERVE(["part.onnx", "--config", str(file)]).port == 0


@pytest.mark.parametrize("parse", [INSPECT, SERVE])
@pytest.mark.parametrize(
    "content, words",
    [
        ("thresold: 1", "line 1: thresold is no setting of deploy/.*; did you mean threshold?"),
        ("threshold: high", "line 1: threshold: 'high' is not"),
        ("- 1", "holds no settings"),
        ("detector: part.onnx", "line 1: detector is no setting of deploy/"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, capsys, parse, content, words):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(SystemExit) as ended:
        parse(["part.onnx", "--config", str(tmp_path / "a.yaml")])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    assert re.search(words, error)


def test_without_pyyaml_it_is_one_sentence(tmp_path, monkeypatch, capsys):
    plain = builtins.__import__

    def without(name, *more):
        if name == "yaml":
            raise ImportError(name)
        return plain(name, *more)

    (tmp_path / "a.yaml").write_text("format: json")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SystemExit):
        INSPECT(["part.onnx", "a.png", "--config", str(tmp_path / "a.yaml")])
    assert "--config needs the package pyyaml: pip install pyyaml" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--save-config needs the package pyyaml"):
        INSPECT(["part.onnx", "a.png", "--format", "json", "--save-config", str(tmp_path / "b.yaml")])


def test_onnxruntime_collects_no_telemetry():
    """It reads this when it is imported, which comes after the package deploy."""
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert "ORT_DISABLE_TELEMETRY" in (ROOT / "deploy/__init__.py").read_text()


@pytest.mark.parametrize(
    "parse, flags, sentence",
    [
        (INSPECT, "--watch nowhere --output out", "--watch nowhere is no folder"),
        (INSPECT, "--watch . photo.png --output out", "give photographs to inspect, or a folder"),
        (INSPECT, "", "give photographs to inspect, or a folder"),
        (INSPECT, "--watch . --format json", "--watch and --pictures need --output DIR"),
        (INSPECT, "a.png --format json --pictures all", "--watch and --pictures need --output DIR"),
        (INSPECT, "a.png", "--output DIR is needed"),
        (INSPECT, "a.png --output out --stop-after 1", "--stop-after is for --watch"),
        (INSPECT, "--watch . --output out --settle -1", "is not a number from 0 to 86400"),
        (INSPECT, "--watch . --output out --settle nan", "is not a number from 0 to 86400"),
        (INSPECT, "a.png --output out --threads 257", "is not a whole number from 0 to 256"),
        (SERVE, "--host 0.0.0.0", "lets other machines in: give --token"),
        (SERVE, "--host camera", "is no address in digits"),
        (SERVE, "--host 0.0.0.0 --token short", "16 or more"),
        (SERVE, "--queue 0", "is not a whole number from 1"),
        (SERVE, "--port 65536", "is not a whole number from 0 to 65535"),
        (SERVE, "--threshold nan", "is not a finite number"),
    ],
)
def test_flags_that_are_refused(tmp_path, monkeypatch, capsys, parse, flags, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        parse(["part.onnx", *flags.split()])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in error and error.count("\n") == 1


def test_the_token_of_the_variable_is_checked_as_that_of_the_flag(monkeypatch, capsys):
    monkeypatch.setenv("FDSL_TOKEN", SECRET)
    assert SERVE(["part.onnx", "--host", "0.0.0.0"]).token == SECRET
    monkeypatch.setenv("FDSL_TOKEN", SECRET[:15])
    with pytest.raises(SystemExit):
        SERVE(["part.onnx"])
    error = capsys.readouterr().err
    assert "needs 16 or more" in error and SECRET[:15] not in error


def test_the_image_runs_what_export_writes_without_root(monkeypatch):
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    given = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    copied = " ".join(words for name, words in given if name == "COPY").split()
    for name in copied:
        if name.endswith("/"):
            continue  # where it goes
        assert fnmatch.filter(["part.onnx", *PROGRAMS], name) or (ROOT / "deploy" / name).is_file()
    (user,) = (words for name, words in given if name == "USER")
    assert int(user) > 0
    (entry,) = (json.loads(words) for name, words in given if name == "ENTRYPOINT")
    monkeypatch.setenv("FDSL_TOKEN", SECRET)
    assert entry[:2] == ["python", "serve.pyz"] and SERVE(entry[2:]).host == "0.0.0.0"
    (port,) = (int(words) for name, words in given if name == "EXPOSE")
    (check,) = (words for name, words in given if name == "HEALTHCHECK")
    assert f":{port}/health" in check and SERVE(entry[2:]).port == port
