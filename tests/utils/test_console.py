"""What is printed: no control character reaches the terminal, whatever a name holds."""

import io
import os

import pytest

from data import folder
from data.catalogue import run_script
from fdsl.flags import export_flags
from tests.support.photographs import draw
from utils.command_line import CommandLine
from utils.console import put, put_line

HOSTILE = "\x1b[2J\x07\u202e\x9b31m"


def is_clean(*texts):
    return not any(mark in text for text in texts for mark in "\x1b\x07\u202e\x9b")


def test_lines_and_tabs_are_left(capsys):
    put(f"one\ttwo\n{HOSTILE}\n")
    put_line("three")
    printed = capsys.readouterr().out
    assert printed == "one\ttwo\n\\x1b[2J\\x07\\u202e\\x9b31m\nthree\n"


def test_what_an_encoding_lacks_is_escaped():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    put("é\udcff", stream)
    assert stream.buffer.getvalue() == b"\\xe9\\udcff"


def test_what_nobody_reads_is_dropped():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        assert (put("one", stream), put_line("two", stream)) == (False, True)


@pytest.mark.parametrize("arguments", [[HOSTILE], ["--weights", HOSTILE], ["--output", f"{HOSTILE}.x"]])
def test_a_message_about_flags(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        export_flags.parse(["--detector", "x", "--output", "x.onnx", *arguments], "what it does")
    assert ended.value.code == 2 and is_clean(*capsys.readouterr())


def test_the_parser_of_scripts(capsys):
    with pytest.raises(SystemExit):
        CommandLine("what it does").parse_args([HOSTILE])
    reported = capsys.readouterr().err
    assert "\\x1b[2J" in reported and is_clean(reported)


def test_the_check_of_a_folder(tmp_path, capsys):
    for name in ("good/1.png", f"good/{HOSTILE}.png", f"{HOSTILE}/2.png"):
        draw(tmp_path / name, 1)
    assert run_script(folder.LAYOUT, None, "", [str(tmp_path)]) == 0
    assert run_script(folder.LAYOUT, None, "", [str(tmp_path / HOSTILE / "no")]) == 2
    assert is_clean(*capsys.readouterr())
