"""No flag is taken and ignored: each one is read, or refused where it has nothing to act on."""

import ast

import pytest

from fdsl.flags import evaluate_flags, export_flags, page_flags, predict_flags, train_flags
from fdsl.flags.command_line import CommandLine
from fdsl.flags.settings_file import FLAGS_ALONE
from tests.support.constants import ROOT
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.options import options_of

COMMANDS = {
    "predict": predict_flags,
    "test": evaluate_flags,
    "train": train_flags,
    "export": export_flags,
    "app": page_flags,
}
# Files that each command reads its flags in, beside its own and that of its flags.
READERS = {
    "predict": ["flags/detector_from_flags", "flags/preset_flag", "inspection/diagnostics"],
    "test": ["flags/run_from_flags", "flags/plan_runs", "flags/ablation_grid", "flags/preset_flag"],
    "train": ["flags/training_from_flags", "training/setup", "config/training_config"],
    "export": [],
    "app": ["flags/detector_from_flags", "flags/preset_flag"],
}
DETECTORS = [name for kind in (BackboneConfig, MethodConfig, WindowConfig) for name in options_of(kind)]
RUNTIME = {"device", "precision", "threads", "pretrained", "model-config", "max-pixels"}
THRESHOLD = {"false-alarm-rate", "calibration", "threshold", "labels"}
GROWING = {"detector", "add-references", "forget", "save-detector", "debug"} | THRESHOLD | RUNTIME
SEEN = {
    *("input", "output", "format", "exit-code", "resume", "pictures", "save-maps", "batch-size", "workers"),
    *("save-masks", "coco", "min-area", "threshold-from"),
}
BACKBONE = {name.replace("_", "-") for name in options_of(BackboneConfig)}
# Command line -> the flags that act in it; of all others each is refused.
SITUATIONS = {
    ("predict", "--show", "--detector", "x"): {"show", "detector", "debug"},
    ("predict", "--doctor"): {"doctor", "preset", "device", "precision", "debug"} | BACKBONE,
    ("predict", "--detector", "x", "--add-references", "y", "--save-detector", "z"): GROWING,
    ("predict", "--detector", "x", "--input", "y", "--output", "z"): GROWING | SEEN | {"show", "doctor"},
    ("predict", "--references", "x", "--input", "y", "--format", "json"): None,
    ("app", "--detector", "x"): {"detector", "add-references", "forget", "debug"}
    | RUNTIME
    | {"port", "host", "token", "max-upload", "min-area"},
}


@pytest.fixture
def parser_of(monkeypatch):
    """The flags of a command, as its parser has them."""
    made = []
    plain = CommandLine.parse_args
    monkeypatch.setattr(
        CommandLine, "parse_args", lambda self, *given: (made.append(self), plain(self, *given))[1]
    )

    def parser(name):
        with pytest.raises(SystemExit):
            COMMANDS[name].parse(["--help"], "")
        return made[-1]

    return parser


def names_in(file):
    """Every attribute, keyword and text of a file, in the spelling of argparse."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)  # a field that is filled by its name
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            found.add(node.slice.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "-" not in node.value:
            found.add(node.value)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_read(name, parser_of, capsys):
    files = [ROOT / f"{name}.py", *(ROOT / "fdsl" / f"{file}.py" for file in READERS[name])]
    read = set().union(*map(names_in, [*files, ROOT / COMMANDS[name].__file__])) | set(DETECTORS)
    flags = {action.dest for action in parser_of(name)._actions}
    beside = {"help", "help_all", "config", "save_config", "debug"}  # of every command line
    assert len(flags) > 10 and flags - read - beside == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_a_help_text(name, parser_of, capsys):
    assert [action.dest for action in parser_of(name)._actions if not action.help] == []


def sample(action):
    """Words that may stand behind a flag."""
    if action.nargs == 0:
        return []
    for value in (*map(str, action.choices or ()), "1", "0.5", "x"):
        try:
            assert action.type is None or action.type(value) is not None
            return [value]
        except Exception:
            continue
    raise AssertionError(action.dest)


@pytest.mark.parametrize("given, acting", SITUATIONS.items(), ids=map(" ".join, SITUATIONS))
def test_what_does_not_act_is_refused(given, acting, parser_of, capsys):
    name, *argv = given
    refused = set()
    for action in parser_of(name)._actions:
        flag = action.option_strings[-1].removeprefix("--")
        if flag in FLAGS_ALONE or f"--{flag}" in argv:
            continue
        capsys.readouterr()
        try:
            COMMANDS[name].parse([*argv, f"--{flag}", *sample(action)], "")
        except SystemExit as ended:
            assert ended.code == 2
            refused.add(flag)
    every = {action.option_strings[-1].removeprefix("--") for action in parser_of(name)._actions}
    every -= {*FLAGS_ALONE, *(word.removeprefix("--") for word in argv)}
    if acting is None:  # nothing is written
        assert {"pictures", "save-maps", "resume", "add-references", "forget"} <= refused
    else:
        assert every - acting - refused == set(), "taken and ignored"


def test_maps_of_a_finished_run_take_no_flag_of_computing(capsys):
    for flag in evaluate_flags.OF_COMPUTING:
        value = "clip-large" if flag == "preset" else "fp32" if flag == "precision" else "1"
        with pytest.raises(SystemExit):
            evaluate_flags.parse(["--from-maps", "x", f"--{flag}", value], "")
        assert f"--{flag} has no effect with --from-maps" in capsys.readouterr().err
