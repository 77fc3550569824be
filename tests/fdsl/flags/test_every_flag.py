"""No flag is taken and ignored: each one is read, or refused where it has nothing to act on."""

import argparse
import ast
import re
from types import SimpleNamespace

import pytest

import app
import export
import predict
import test
import train
from deploy import inspect_command, serve_command
from fdsl import summarize
from fdsl.config.run_config import RunConfig
from fdsl.flags import evaluate_flags, export_flags, page_flags, predict_flags, run_from_flags, train_flags
from tests.support.constants import ROOT
from tests.test_documents import DOCUMENTS, code_lines
from utils.command_line import SHORTEST_TOKEN
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.errors import ConfigError, ModelError
from utils.options import options_of
from utils.settings_file import FLAGS_ALONE

COMMANDS = {  # name -> what reads its command line, given a list
    "predict": lambda argv: predict_flags.parse(argv, predict.__doc__),
    "test": lambda argv: evaluate_flags.parse(argv, test.__doc__),
    "train": lambda argv: train_flags.parse(argv, train.__doc__),
    "export": lambda argv: export_flags.parse(argv, export.__doc__),
    "app": lambda argv: page_flags.parse(argv, app.__doc__),
    "inspect": inspect_command.parse,
    "serve": serve_command.parse,
    "summarize": summarize.main,
}
# Files that each command reads its flags in.
READERS = {
    "predict": [
        *("predict", "fdsl/flags/predict_flags", "fdsl/flags/detector_options"),
        *("fdsl/flags/detector_from_flags", "fdsl/inspection/diagnostics"),
    ],
    "test": [
        *("test", "fdsl/flags/evaluate_flags", "fdsl/flags/run_from_flags"),
        *("fdsl/flags/ablation_grid", "fdsl/config/evaluation_options", "fdsl/commands/evaluate_runs"),
    ],
    "train": [
        *("train", "fdsl/flags/train_flags", "fdsl/config/training_config", "fdsl/training/setup"),
        *("fdsl/training/loop", "fdsl/training/step", "fdsl/commands/train_heads"),
    ],
    "export": ["export", "fdsl/flags/export_flags"],
    "app": [
        *("app", "fdsl/flags/page_flags", "fdsl/flags/detector_options", "fdsl/flags/detector_from_flags")
    ],
    "inspect": ["deploy/inspect_command", "deploy/detector_flags"],
    "serve": ["deploy/serve_command", "deploy/detector_flags"],
    "summarize": ["fdsl/summarize"],
}
DETECTORS = [name for kind in (BackboneConfig, MethodConfig, WindowConfig) for name in options_of(kind)]
RUNTIME = {"device", "precision", "threads", "pretrained", "model-config", "max-pixels"}
THRESHOLD = {"false-alarm-rate", "calibration", "threshold", "labels"}
GROWING = {"detector", "add-references", "forget", "save-detector", "debug"} | THRESHOLD | RUNTIME
SEEN = {
    *("input", "output", "format", "exit-code", "resume", "pictures", "save-maps", "batch-size", "workers"),
    *("save-masks", "coco", "min-area"),
}
BACKBONE, WINDOWS = (
    {name.replace("_", "-") for name in options_of(kind)} for kind in (BackboneConfig, WindowConfig)
)
RUN = {  # of test.py, whatever is tested
    *("dataset", "data-path", "meta", "model-name", "results", "batch-size", "seed", "image-score"),
    *("metric-size", "pictures", "force", "submission", "resume", "ablate", "table", "preset", "debug"),
    *("device", "precision", "workers", "threads", "max-pixels"),
    *("from-maps", "method", "winmode"),
} | BACKBONE
SHOTS = {"k-shot", "rotate-references", "roi", "ignore", "grey-range", "with-batch"}
TRAINED = {"use-nam", "fd", "checkpoint", "checkpoints"}
WORDS = {"object", "normal-words", "damaged-words"}
TESTED = ("--dataset", "folder", "--data-path", "x")
TRAINING = {  # of train.py
    *("dataset", "data-path", "meta", "model-name", "checkpoints", "epochs", "k-shot", "batch-size", "seed"),
    *("learning-rate", "augmentation", "force", "resume", "save-every", "max-pixels", "use-nam"),
    *("fd", "align", "device", "precision", "workers", "threads", "debug"),
} | BACKBONE
INSPECTED = {"debug"} | {  # of deploy/inspect.py
    *("output", "format", "exit-code", "threshold", "max-pixels", "threads", "provider", "precision")
}
# Command line -> the flags that act in it; of all others each is refused.
SITUATIONS = {
    ("predict", "--show", "--detector", "x"): {"show", "detector", "debug"},
    ("predict", "--doctor"): {"doctor", "preset", "device", "precision", "debug"} | BACKBONE,
    ("predict", "--detector", "x", "--add-references", "y", "--save-detector", "z"): GROWING,
    ("predict", "--detector", "x", "--input", "y", "--output", "z"): GROWING | SEEN | {"show", "doctor"},
    ("predict", "--references", "x", "--input", "y", "--format", "json"): None,
    ("predict", "--references", "x", "--input", "y", "--output", "z"): (
        GROWING - {"add-references", "forget"}
    )
    | SEEN
    | BACKBONE
    | SHOTS
    | {"preset", "max-pixels", "checkpoint", "method", "image-score", "winmode", "tiles", "with-text"},
    ("predict", "--checkpoint", "x", "--references", "x", "--input", "y", "--output", "z"): GROWING
    | SEEN
    | BACKBONE
    | SHOTS
    | WINDOWS
    | {"method", "image-score", "preset", "with-text"},
    ("app", "--detector", "x"): {"detector", "add-references", "forget", "debug"}
    | RUNTIME
    | {"port", "host", "token", "max-upload", "min-area"},
    ("test", *TESTED, "--method", "nearest"): RUN | SHOTS | {"align", "with-text", "tiles"},
    ("test", *TESTED, "--method", "subspace"): RUN | SHOTS | {"tiles"},
    ("test", *TESTED, "--method", "text"): RUN | WORDS | {"roi", "ignore", "grey-range"},
    ("test", *TESTED, "--winmode", "nan"): RUN | SHOTS | TRAINED | {"align", "with-text", "tiles"},
    ("test", *TESTED, "--winmode", "onlywin"): RUN
    | SHOTS
    | TRAINED
    | {"align", "with-text"}
    | (WINDOWS - {"win-weight", "tiles"}),
    ("test", *TESTED, "--checkpoint", "x"): RUN
    | SHOTS
    | (TRAINED - {"checkpoints"})
    | {"align", "with-text"}
    | WINDOWS,
    ("train", "--dataset", "visa"): TRAINING,
    ("train", "--dataset", "visa", "--fd", "none"): TRAINING - {"align", "k-shot"},
    ("train", "--dataset", "visa", "mvtec", "--data-path", "x", "y"): TRAINING - {"meta"},
    ("inspect", "x", "y", "--output", "z"): INSPECTED | {"pictures"},
    ("inspect", "x", "--watch", ".", "--output", "z"): INSPECTED | {"pictures", "settle", "stop-after"},
    ("inspect", "x", "y", "--format", "json"): INSPECTED,
}


@pytest.fixture
def parser_of(monkeypatch):
    """The flags of a command, as its parser has them."""
    made = []
    plain = argparse.ArgumentParser.parse_known_args
    monkeypatch.setattr(
        *(argparse.ArgumentParser, "parse_known_args"),
        lambda self, *given, **named: (made.append(self), plain(self, *given, **named))[1],
    )

    def parser(name):
        with pytest.raises(SystemExit):
            COMMANDS[name](["--help"])
        return made[-1]

    return parser


def names_in(file):
    """Every attribute, keyword and text of a file, in the spelling of argparse."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            found.add(node.slice.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "-" not in node.value:
            found.add(node.value)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_read(name, parser_of, capsys):
    read = set().union(*(names_in(ROOT / f"{file}.py") for file in READERS[name])) | set(DETECTORS)
    if name == "test":
        read |= {one.dest for one in options_of(RunConfig).values()}  # each by its field
    flags = {action.dest for action in parser_of(name)._actions}
    beside = {"help", "help_all", "config", "save_config", "debug", "max_pixels"}  # CommandLine reads them
    assert len(flags) > 3 and flags - read - beside == set()


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if not name.endswith("measurements.md")])
def test_commands_of_documents_have_their_flags(document, parser_of, capsys):
    missing = []
    for line in code_lines(ROOT / document):
        for name, words in re.findall(r"python (?:deploy/)?(\w+)\.pyz? ([^|;#]*)", line):
            if name in COMMANDS:
                known = {flag for action in parser_of(name)._actions for flag in action.option_strings}
                missing += [flag for flag in re.findall(r"(?<!\S)--[\w-]+", words) if flag not in known]
    assert missing == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_a_help_text(name, parser_of, capsys):
    assert [action.dest for action in parser_of(name)._actions if not action.help] == []


@pytest.mark.parametrize("name", ["predict", "test", "train", "export", "app"])
def test_the_usual_flags_take_a_line_each(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        COMMANDS[name](["--help"])
    lines = capsys.readouterr().out.splitlines()
    usual = lines[lines.index("usual flags:") + 1 : -2]
    assert len(lines) <= 25 and max(map(len, lines)) <= 80 and "--help-all" in lines[-1]
    assert 5 <= len(usual) <= 12 and all(line.startswith("  --") for line in usual)


def sample(action):
    """Words that may stand behind a flag, of another value than the default."""
    if action.nargs == 0:
        return []
    for value in (*map(str, reversed(list(action.choices or ()))), "2", "0.5", "x", "x" * SHORTEST_TOKEN):
        try:
            assert action.type is None or action.type(value) is not None
            return [value]
        except Exception:
            continue
    raise AssertionError(action.dest)


@pytest.fixture
def is_refused(monkeypatch, capsys):
    """Whether a command refuses a command line before it reads anything; of test.py, before heads and
    photographs are read."""
    heads = SimpleNamespace(
        backbone=BackboneConfig(), options=MethodConfig(), has_nam=True, trained_on="visa"
    )
    monkeypatch.setattr(run_from_flags, "load_checkpoint", lambda path: heads)
    monkeypatch.setattr(run_from_flags, "file_digest", lambda path: "")

    def refuses(name, argv):
        try:
            read = COMMANDS[name](argv)
            for run in read if name == "test" else ():
                run.checkpoint = run.checkpoint or "heads" if run.method == "fdsl" else run.checkpoint
                run_from_flags.rerun_config(run) if run.from_maps else run_from_flags.new_config(run)
        except SystemExit as ended:
            return ended.code == 2
        except ConfigError:
            return True
        except ModelError:  # it is read: there is no such model
            return False
        return False

    return refuses


@pytest.mark.parametrize("given, acting", SITUATIONS.items(), ids=map(" ".join, SITUATIONS))
def test_what_does_not_act_is_refused(given, acting, parser_of, is_refused):
    name, *argv = given
    named = {one.dest.replace("_", "-"): one for one in parser_of(name)._actions if one.option_strings}
    actions = {
        flag: one for flag, one in named.items() if flag not in FLAGS_ALONE and f"--{flag}" not in argv
    }
    refused = {flag for flag, one in actions.items() if is_refused(name, [*argv, f"--{flag}", *sample(one)])}
    if acting is None:  # nothing is written
        assert {"pictures", "save-maps", "resume", "add-references", "forget"} <= refused
    else:
        assert not is_refused(name, argv)
        assert actions.keys() - acting - refused == set(), "taken and ignored"


def test_maps_of_a_finished_run_take_what_fuses_and_evaluates_them_alone(parser_of, capsys):
    flags = {one.dest.replace("_", "-"): one for one in parser_of("test")._actions if one.option_strings}
    others = flags.keys() - {*evaluate_flags.WITH_MAPS, *FLAGS_ALONE, "debug"}
    assert {"win-weight", "winmode", "image-score", "metric-size"} < set(evaluate_flags.WITH_MAPS)
    assert {"win-size", "seed", "dataset", "device", "ablate"} < others
    for flag in others:
        with pytest.raises(SystemExit):
            COMMANDS["test"](["--from-maps", "x", f"--{flag}", *sample(flags[flag])])
        assert f"--{flag} has no effect with --from-maps" in capsys.readouterr().err
