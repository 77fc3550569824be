"""pyproject.toml: its commands exist, its packages are whole, and it asks for what requirements.txt lists."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from utils import signals

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMANDS = PROJECT["project"]["scripts"]
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def names(requirements):
    """Packages as PyPI spells them: lower case, with hyphens."""
    lines = [line.split("#")[0].strip() for line in requirements]
    wanted = [line for line in lines if line and not line.startswith("-r ")]
    return {re.split(r"[=<>!~\[; ]", line)[0].lower().replace("_", "-") for line in wanted}


def functions(file):
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", ("train", "test", "predict", "app", "export"))
def test_each_command_of_the_root_is_installed(name):
    place = f"fdsl_commands.{name}"
    assert COMMANDS[f"fdsl-{name}"] == f"{place}:command"
    assert place in SETUPTOOLS["py-modules"] and SETUPTOOLS["package-dir"] == {"fdsl_commands": "."}
    assert "command" in functions(ROOT / f"{name}.py")
    assert f'"{place}"' in (ROOT / f"{name}.py").read_text()  # it answers Ctrl-C while torch is imported


def test_no_other_command_is_installed():
    assert len(COMMANDS) == len(SETUPTOOLS["py-modules"]) == 5


@pytest.mark.parametrize(
    "extra, file",
    ((None, "requirements.txt"), ("app", "requirements-app.txt"), ("export", "requirements-export.txt")),
)
def test_pyproject_asks_for_what_the_requirements_list(extra, file):
    project = PROJECT["project"]
    asked = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    assert names(asked) == names((ROOT / file).read_text().splitlines())


def test_every_package_and_what_lies_in_it_is_installed():
    """setuptools finds folders with an __init__.py; files of other kinds have to be named."""
    patterns = SETUPTOOLS["packages"]["find"]["include"]
    for package in ("data", "models", "utils", "fdsl", "page"):
        for folder in {file.parent for file in (ROOT / package).rglob("*.py")}:
            name = ".".join(folder.relative_to(ROOT).parts)
            assert (folder / "__init__.py").is_file(), f"{name} would not be installed"
            assert name in patterns or f"{package}.*" in patterns, name
    for package in ("models", "utils", "fdsl", "page"):
        named = {
            file
            for name, globs in SETUPTOOLS["package-data"].items()
            for pattern in globs
            for file in ROOT.joinpath(*name.split(".")).glob(pattern)
        }
        files = {file for file in (ROOT / package).rglob("*") if file.is_file()}
        others = {file for file in files if file.suffix not in (".py", ".pyc")}
        assert others <= named, others - named


@pytest.mark.parametrize(
    "script, words",
    (
        ("predict.py", "python predict.py --input 'a b'"),
        ("fdsl-predict", "fdsl-predict --input 'a b'"),
        ("elsewhere/fdsl-predict", "elsewhere/fdsl-predict --input 'a b'"),
    ),
)
def test_the_command_in_messages_can_be_pasted(script, words, tmp_path, monkeypatch):
    for folder in (tmp_path / "bin", tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "fdsl-predict").write_text("#!/bin/sh\n")
        (folder / "fdsl-predict").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    called = str(tmp_path / "bin" / script) if script == "fdsl-predict" else script
    monkeypatch.setattr(sys, "argv", [called, "--input", "a b"])
    assert signals.command_line() == words
