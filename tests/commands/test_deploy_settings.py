"""--config and --save-config of deploy/inspect.py and deploy/serve.py; onnxruntime's telemetry is off."""

import builtins
import os
import re

import pytest

from deploy import inspect_command, serve_command
from tests.support.constants import ROOT
from utils.errors import ConfigError


def test_what_was_given_is_given_again_by_the_file(tmp_path):
    file, photos = tmp_path / "line.yaml", str(tmp_path)
    flags = ["--watch", photos, "--output", "out", "--settle", "0.5", "--exit-code", "--threshold", "0.4"]
    given = inspect_command.parse(["part.onnx", *flags, "--save-config", str(file)])
    again = inspect_command.parse(["part.onnx", "--config", str(file)])
    assert vars(again) == {**vars(given), "config": file, "save_config": None}
    assert inspect_command.parse(["part.onnx", "--config", str(file), "--threshold", "2"]).threshold == 2
    text = file.read_text()
    assert "settle: 0.5\n" in text and "exit-code: true\n" in text and "max-pixels" not in text


def test_photographs_may_stand_between_flags(tmp_path):
    (tmp_path / "line.yaml").write_text("format: json\n")
    args = inspect_command.parse(
        ["part.onnx", "--config", str(tmp_path / "line.yaml"), "a.png", "--exit-code", "b.png"]
    )
    assert args.input == ["a.png", "b.png"] and args.format == "json" and args.exit_code


def test_a_token_is_not_written(tmp_path):
    file, token = tmp_path / "serve.yaml", "0123456789abcdef"
    serve_command.parse(["part.onnx", "--port", "0", "--token", token, "--save-config", str(file)])
    assert file.read_text().endswith("port: 0\n") and token not in file.read_text()
    assert serve_command.parse(["part.onnx", "--config", str(file)]).port == 0


@pytest.mark.parametrize("parse", [inspect_command.parse, serve_command.parse])
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
        inspect_command.parse(["part.onnx", "a.png", "--config", str(tmp_path / "a.yaml")])
    assert "--config needs the package pyyaml: pip install pyyaml" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--save-config needs the package pyyaml"):
        inspect_command.parse(
            ["part.onnx", "a.png", "--format", "json", "--save-config", str(tmp_path / "b.yaml")]
        )


def test_onnxruntime_collects_no_telemetry():
    """It reads this when it is imported, which comes after the package deploy."""
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert "ORT_DISABLE_TELEMETRY" in (ROOT / "deploy/__init__.py").read_text()
