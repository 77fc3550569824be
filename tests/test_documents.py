"""The documents name files, headings and commands that are there, and flags that the commands have."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    "README.md",
    *sorted(str(f.relative_to(ROOT)) for d in ("docs", "benchmarks") for f in (ROOT / d).rglob("*.md")),
]
COMMAND = re.compile(r"(?:^|[\s|;(])(?:python3?|bash)\s+((?:-[a-z]\s+)*)([\w./-]+)([^|;#)]*)")
PLACEHOLDER = re.compile(r"[A-Z_]+(\.py)?")
ABBREVIATION = re.compile(r"`(\$[A-Z]+)`\s+(?:stands\s+)?for\s+`([^`]+)`")
VALUES = {"K": "1", "P": "bf16", "MODEL@PX": "ViT-S-16@448", "SECRET": 16 * "s", "$SLURM_ARRAY_TASK_ID": "14"}


def broken_links(document: Path) -> list[str]:
    """Relative links of a Markdown file whose file, or whose heading in it, is not there."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists() or (heading and heading not in headings(file)):
            broken.append(target)
    return broken


def headings(document: Path) -> set[str]:
    """The headings of a Markdown file, as links spell them."""
    lines = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def code_lines(document: Path) -> list[str]:
    """The lines of a Markdown file's code blocks, and the code within its other lines."""
    found, inside = [], False
    for line in document.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            inside = not inside
        else:
            found += [line] if inside else re.findall(r"`([^`]+)`", line)
    return found


def missing_scripts(document: Path, root: Path) -> list[str]:
    """Files that a Markdown file's commands run and that are not below `root`: of python FILE, bash FILE and
    python -m MODULE, and what pytest is given. Names in capitals stand for any."""
    commands = [command for line in code_lines(document) for command in COMMAND.findall(line)]
    wanted = [name for command in commands for name in files_of_command(*command)]
    return [name for name in wanted if not any((root / found).is_file() for found in name.split("|"))]


def files_of_command(options: str, name: str, rest: str) -> list[str]:
    """The files that one command needs; alternatives are joined by |."""
    if PLACEHOLDER.fullmatch(Path(name).name) or name.startswith("-"):
        return []
    if "-m" not in options.split():
        return [name] if Path(name).suffix in (".py", ".sh") else []
    if name == "pytest":
        return [word for word in shlex.split(rest) if word.endswith(".py")]
    module = name.replace(".", "/")
    return [] if not (ROOT / module.split("/")[0]).is_dir() else [f"{module}.py|{module}/__main__.py"]


class Parsed(BaseException):
    """A command line was read; the command is not run."""


def unknown_flags(document: Path, monkeypatch, capsys) -> list[str]:
    """What a Markdown file's `python FILE` and `python -m MODULE` commands refuse of their own command lines,
    as far as their parsers do."""
    text, refused = document.read_text(encoding="utf-8"), []
    stands_for = {name: " ".join(words.split()) for name, words in ABBREVIATION.findall(text)}
    reads, reads_known = (
        getattr(argparse.ArgumentParser, name) for name in ("parse_args", "parse_known_args")
    )

    def stops_behind(read):
        def parse(parser, *given):
            monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", reads_known)
            read(parser, *given)
            raise Parsed

        return parse

    for options, name, rest in {
        command for line in code_lines(document) for command in COMMAND.findall(line)
    }:
        file = Path(f"{name.replace('.', '/')}.py" if "-m" in options.split() else name)
        main = runpy.run_path(str(ROOT / file)).get("main") if is_own(file) else None
        if main is None:
            continue
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stops_behind(reads))
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stops_behind(reads_known))
        for short, long in stands_for.items():
            rest = rest.replace(short, long)
        words = [VALUES.get(word, word) for word in shlex.split(rest, comments=True)]
        monkeypatch.setattr(sys, "argv", [str(file), *words])
        try:
            main()
        except Parsed:
            pass
        except SystemExit as ended:
            if ended.code:
                refused.append(f"{shlex.join(sys.argv)}: {capsys.readouterr().err}")
    return refused


def is_own(file: Path) -> bool:
    """Whether it is a program in Python below the root."""
    return file.suffix == ".py" and (ROOT / file).is_file()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    assert broken_links(ROOT / document) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_their_files(document):
    assert missing_scripts(ROOT / document, ROOT) == []


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_their_flags(document, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert unknown_flags(ROOT / document, monkeypatch, capsys) == []


def test_a_flag_that_is_gone_is_found(tmp_path, monkeypatch, capsys):
    document = tmp_path / "README.md"
    document.write_text(
        "`$MODEL` stands for `--model x --gone 1`. `python predict.py --input a $MODEL`\n"
        "```bash\npython benchmarks/metrics.py stream --exact  # --gone\n"
        "python -m fdsl.summarize --never results\npython benchmarks/scale.py trips\n```\n"
    )
    refused = sorted(unknown_flags(document, monkeypatch, capsys))
    assert [line.split()[0] for line in refused] == ["benchmarks/scale.py", "fdsl/summarize.py", "predict.py"]
    assert "trips" in refused[0] and "--never" in refused[1] and "--gone" in refused[2]


def test_what_is_not_there_is_found(tmp_path):
    document = tmp_path / "README.md"
    (tmp_path / "train.py").touch()
    document.write_text(
        "# One heading\n[a](gone.md) [b](#one-heading) [c](#another) [d](https://example.org)\n"
        "[e](README.md#one-heading)\n```python\nimport this  # `python\n```\n"
        "`python train.py --x` and `python gone.py`, `python data/NAME.py`\n"
        "```bash\nA=1 bash gone.sh 1\nOMP=1 python -m pytest -s tests/gone.py\npython -m fdsl.gone x\n"
        "python predict.py | python train.py\npip install x\n```\n"
    )
    assert broken_links(document) == ["gone.md", "#another"]
    assert missing_scripts(document, tmp_path) == [
        "gone.py",
        "gone.sh",
        "tests/gone.py",
        "fdsl/gone.py|fdsl/gone/__main__.py",
        "predict.py",
    ]
