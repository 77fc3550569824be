"""--config and --save-config, what --help shows, and the answer to a typo."""

import pytest

from fdsl.flags import evaluate_flags, export_flags, page_flags, predict_flags, train_flags
from utils.config import QUARTER
from utils.options import without
from utils.settings_file import SECRETS

SEEN = ["--references", "good", "--input", "parts", "--output", "out"]
COMMANDS = {
    predict_flags: SEEN,
    evaluate_flags: ["--dataset", "mvtec"],
    train_flags: ["--dataset", "visa"],
    export_flags: ["--detector", "a", "--output", "b.onnx"],
    page_flags: [],
}


def values(flags, *argv):
    found = flags.parse(list(argv), "What it does.\n\n    an example\n")
    return vars(found[0] if isinstance(found, list) else found)


def refused(capsys, flags, *argv):
    with pytest.raises(SystemExit) as stopped:
        values(flags, *argv)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def file(tmp_path):
    def written(text):
        (tmp_path / "run.yaml").write_text(text)
        return str(tmp_path / "run.yaml")

    return written


@pytest.mark.parametrize("flags", COMMANDS)
def test_what_was_given_comes_back_from_a_file(flags, tmp_path):
    more = [] if flags is export_flags else ["--model", "ViT-B-16", "--layers", "6", "3"]
    given = [*COMMANDS[flags], *more, "--pretrained", "none", "--debug"]
    file = str(tmp_path / "run.yaml")
    plain = values(flags, *given, "--save-config", file)
    again = values(flags, "--config", file)
    files = ("config", "save_config")
    assert without(plain, files) == without(again, files)
    assert (again | again.get("given", {}))["pretrained"] == "none" and again["debug"] is True


def test_flags_win_over_a_file(file):
    settings = file("image_size: 224\nlayers: [3, 6]\nresume: false\nablate: [winmode=nan, use-nam=0]\n")
    kept = values(evaluate_flags, "--dataset", "mvtec", "--config", settings)
    assert (kept["image_size"], kept["layers"], kept["resume"]) == (224, [3, 6], False)
    assert kept["combination"] == {"winmode": "nan", "use-nam": "0"}
    argv = ["--dataset", "mvtec", f"--config={settings}", "--image-size", "448", "--layers", "9", "--resume"]
    won = values(evaluate_flags, *argv, "--ablate", "tiles=1")
    assert (won["image_size"], won["layers"], won["resume"]) == (448, [9], True)
    assert won["combination"] == {"tiles": "1"}


def test_ablated_settings_are_stored_as_combinations_alone(tmp_path):
    file = str(tmp_path / "run.yaml")
    given = ["--dataset", "mvtec", "--ablate", "win-size=3,5", "with-batch=0,1"]
    plain = evaluate_flags.parse([*given, "--save-config", file], "")
    again = evaluate_flags.parse(["--config", file], "")
    assert [one.combination for one in again] == [one.combination for one in plain] and len(plain) > 1


def test_a_flag_that_needs_no_value_has_an_empty_one(file):
    settings = file("window-budget:\nwinmode: mul\n")
    assert values(evaluate_flags, "--dataset", "visa", "--config", settings)["window_budget"] == QUARTER


@pytest.mark.parametrize(
    "text, words",
    [
        ("layrs: 3\n", "line 1: layrs is no setting of "),
        ("layrs: 3\n", "did you mean layers?"),
        ("device: cpu\nlayers: 0\n", "line 2: layers: 0 is not a whole number from 1"),
        ("device: cpu\ndevice: cuda\n", "line 2: device stands there twice"),
        ("device: [cpu, cuda]\n", "device takes one value"),
        ("debug: maybe\n", "debug is true or false"),
        ("config: other.yaml\n", "config is no setting of"),
        ("layers: {a: 3}\n", "layers is neither a text, a number nor a list"),
        ("- layers\n", "holds no settings"),
        ("a: [\n", "is no YAML"),
    ],
)
@pytest.mark.parametrize("flags", [flags for flags in COMMANDS if flags is not export_flags])
def test_what_cannot_be_in_a_file_is_refused(flags, text, words, file, capsys):
    assert words in refused(capsys, flags, *COMMANDS[flags], "--config", file(text))


@pytest.mark.parametrize(
    "flags, given, text, named",
    [
        (predict_flags, ["--doctor"], "output: out", "output"),
        (predict_flags, ["--show", "--detector", "x"], "save-maps: true", "save-maps"),
        (predict_flags, [*SEEN[:4], "--format", "json"], "pictures: all", "pictures"),
        (evaluate_flags, ["--from-maps", "x"], "seed: [14, 15]", "seed"),
        (evaluate_flags, ["--from-maps", "x"], "ablate: [winmode=nan]", "ablate"),
        (evaluate_flags, ["--dataset", "mvtec"], "memory: 4", "memory"),
        (train_flags, ["--dataset", "visa", "--fd", "none"], "align: diff2", "align"),
    ],
)
def test_a_setting_without_effect_is_refused_as_its_flag_is(flags, given, text, named, file, capsys):
    assert f"--{named} has no effect with " in refused(capsys, flags, *given, "--config", file(text))


def test_what_a_file_switches_off_has_no_effect(file):
    settings = file("save-maps: false\nexit-code: false\n")
    assert values(predict_flags, "--doctor", "--config", settings)["doctor"] is True


def test_a_file_that_is_not_there_is_refused(capsys):
    reported = refused(capsys, page_flags, "--config", "no-such.yaml")
    assert "--config no-such.yaml cannot be read (No such file or directory)" in reported


def test_a_secret_is_not_written(tmp_path):
    file = tmp_path / "run.yaml"
    values(page_flags, "--token", "s" * 20, "--port", "81", "--save-config", str(file))
    assert SECRETS == ("token",) and "token" not in file.read_text() and "port: 81" in file.read_text()


def test_a_refused_command_line_writes_nothing(tmp_path, capsys):
    refused(
        capsys,
        predict_flags,
        "--detector",
        "x",
        "--preset",
        "clip-large",
        "--save-config",
        str(tmp_path / "a"),
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", COMMANDS)
def test_help_is_short_and_help_all_has_every_flag(flags, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as stopped:
            values(flags, flag)
        assert stopped.value.code == 0
        shown.append(capsys.readouterr().out)
    short, every = shown
    assert short.count("\n") <= 27 and "What it does." in short and "    an example" in short
    names = flags.COMMON
    assert 5 < len(names) < 16 and all(f"  --{name}" in short for name in names)
    assert all(f"  --{name}" in every for name in (*names, "save-config", "debug"))
    assert int(short.split(" flags, by groups")[0].split()[-1]) > len(names)


def test_a_typo_names_the_nearest_flag(capsys):
    reported = refused(capsys, predict_flags, "--refrences", "x")
    assert "there is no --refrences: did you mean --references?" in reported


@pytest.mark.parametrize("typed", ["--gpu", "--no-browser"])
def test_dashes_alone_make_no_flag_near(typed, capsys):
    assert "did you mean" not in refused(capsys, predict_flags, typed, "x")


def test_the_beginning_of_a_flag_is_the_flag(capsys):
    assert "argument --epochs" in refused(capsys, train_flags, "--epoch=", "x")
