"""One declaration per option: what takes options knows a new field at once, and values are checked by it."""

import subprocess
import sys
from dataclasses import replace

import pytest

from fdsl.flags.ablation_grid import ABLATED
from fdsl.flags.detector_options import MAKING_FLAGS
from tests.support.constants import ROOT
from utils.config import BackboneConfig, MethodConfig, WindowConfig
from utils.errors import ConfigError
from utils.options import as_stored, from_stored, given_of, options_of

KINDS = (BackboneConfig, MethodConfig, WindowConfig)

A_NEW_OPTION = '''
import sys, types
from inspect import signature
from pathlib import Path

def with_field(file, field, before):
    """A module of the product with one more field."""
    source, name = Path(file).read_text(encoding="utf-8"), file.removesuffix(".py").replace("/", ".")
    assert source.count(before) == 1
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source.replace(before, f"    {field}\\n{before}"), file, "exec"), module.__dict__)

OF_METHODS = 'gain: float = option(1.0, span=(0, 4), short="gain{}", metavar="0..4", help="a throw-away")'
OF_RUNS = 'limit: int = option(0, span=(0, 9), short="limit{}", help="a throw-away of test runs")'
OF_COMMANDS = 'tone: str = option("low", choices=("low", "high"), help="a throw-away of predict.py")'
with_field("utils/config.py", OF_METHODS, "    with_batch: bool = option(")
with_field("fdsl/config/run_config.py", OF_RUNS, "    metric_size: int | str = option(")
with_field("fdsl/flags/predict_flags.py", OF_COMMANDS, "    exit_code: bool = option(")

from fdsl.api import AnomalyDetector
from fdsl.flags import detector_options, evaluate_flags, predict_flags
from fdsl.flags.ablation_grid import ABLATED
from fdsl.config.describe import framing
from fdsl.config.run_config import RunConfig
from fdsl.report.published import unlike_the_paper
from fdsl.evaluation.run_name import name_of
from fdsl.flags.run_from_flags import new_config
from fdsl.config.resolve import method_config
from fdsl.config.training_config import TrainedWith
from tests.support.run_config import a_config, trained_with
from utils.errors import ConfigError
from utils.options import from_stored

predict = ["--input", "new", "--references", "good", "--output", "out", "--gain", "2"]
assert predict_flags.parse(predict, "").given["gain"] == 2.0
assert predict_flags.parse(predict, "").tone == "low"
assert predict_flags.parse([*predict, "--tone", "high"], "").tone == "high"
assert "gain" in detector_options.MAKING_FLAGS and "gain" in ABLATED
runs = evaluate_flags.parse(["--dataset", "mvtec", "--method", "nearest", "--ablate", "gain=1,3"], "")
assert [run.gain for run in runs] == [1.0, 3.0]
assert method_config(vars(runs[1])).gain == 3.0
tiny = ["--method", "nearest", "--model", "timm/test_vit", "--layers", "1", "--pretrained", "none"]
runs = evaluate_flags.parse(["--dataset", "mvtec", *tiny, "--ablate", "limit=2,4"], "")
limited = [new_config(run)[0] for run in runs]
assert [config.limit for config in limited] == [2, 4] and name_of(limited[1]).endswith("_limit4")

stored = a_config(14)
assert stored["options"]["gain"] == 1.0
one, two = (from_stored(RunConfig, {"limit": 0, **a_config(14, options__gain=gain)}) for gain in (1.0, 2.5))
for what in ("maps", "run", "row"):
    assert one.identity(what) != two.identity(what)
assert "--gain 2.5" in framing(two) and unlike_the_paper(two) == "--gain 2.5"
assert "--gain" not in framing(one) and unlike_the_paper(one) == ""
assert (name_of(one), name_of(two)) == ("mul_13_2_0.5", "mul_13_2_0.5_gain2.5")
try:
    from_stored(RunConfig, {"limit": 0, **a_config(14, options__gain=5)})
except ConfigError as error:
    assert str(error) == "gain is 5, which is not a number from 0 to 4."
else:
    raise SystemExit("a stored value out of range is taken")
try:
    evaluate_flags.parse(["--from-maps", "x", "--gain", "2"], "")
except SystemExit as error:
    assert error.code == 2
else:
    raise SystemExit("--from-maps takes another value")
assert from_stored(TrainedWith, trained_with()).identity()["gain"] == 1.0
assert "gain" in signature(AnomalyDetector.from_backbone).parameters
'''


@pytest.mark.slow
def test_a_new_option_is_one_field():
    """One more field of a method, of a test run, of a command, and nothing else changed."""
    done = subprocess.run([sys.executable, "-c", A_NEW_OPTION], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lists_hold_every_option():
    known = {name: one for kind in KINDS for name, one in options_of(kind).items()}
    assert known.keys() <= set(ABLATED)
    making = {name for name, one in known.items() if not (one.place or one.research)}
    assert making <= set(MAKING_FLAGS)
    assert not {name for name, one in known.items() if one.place} & set(MAKING_FLAGS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_an_option_with_a_help_text(kind):
    config = kind()
    assert list(options_of(kind)) == list(vars(config)) and from_stored(kind, as_stored(config)) == config
    assert all(one.help and (one.group or kind.group) for one in options_of(kind).values())


@pytest.mark.parametrize(
    "kind, name, wrong",
    [
        (BackboneConfig, "layers", ()),
        (BackboneConfig, "layers", (0,)),
        (BackboneConfig, "layers", (1.0,)),
        (BackboneConfig, "model", "x" * 2000),
        (BackboneConfig, "model", None),
        (BackboneConfig, "image_size", True),
        (BackboneConfig, "token_norm", "both"),
        (MethodConfig, "use_nam", 1),
        (MethodConfig, "leave_out", "top-k"),
        (MethodConfig, "object", "nul\0"),
        (WindowConfig, "win_weight", 1.5),
        (WindowConfig, "win_weight", float("nan")),
        (WindowConfig, "window_budget", -2),
        (WindowConfig, "tiles", 0),
    ],
)
def test_a_value_that_no_flag_takes_is_refused(kind, name, wrong):
    with pytest.raises(ConfigError, match=f"^{name} is .*, which is not "):
        replace(kind(), **{name: wrong})


def test_given_values_become_those_that_are_stored():
    given = {"layers": [9, 3], "tiles": "auto", "use_nam": 0, "normal_words": ["b", "a", "b"], "fd": None}
    assert given_of(BackboneConfig, given) == {"layers": (3, 9)}
    assert given_of(WindowConfig, given) == {"tiles": -1}
    assert given_of(MethodConfig, given) == {"use_nam": False, "normal_words": ("a", "b")}
    assert options_of(WindowConfig)["tiles"].typed(-1) == "auto"
