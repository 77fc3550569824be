"""A fitted detector that is taught more, or made to forget, is the one that was shown all at once."""

import json
import tempfile
from datetime import date

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from fdsl.api import AnomalyDetector
from fdsl.flags import page_flags
from fdsl.flags.detector_from_flags import page_detector
from fdsl.references.reference_store import to_store
from tests.support.predictions import BACKBONE_OPTIONS, RUNTIME, rows
from tests.support.small_runs import command
from utils.config import WindowConfig
from utils.errors import ConfigError, DataError

predict = command("predict")
WHOLE = {**vars(WindowConfig("mul", 4, 4, window_memory="image"))}
RESIZED = {"method": "plus", **vars(WindowConfig("mul", 4, 4, index_memory="window", win_zip=1))}


@pytest.fixture
def good(tmp_path):
    """Four photographs of good parts, one a JPEG."""
    noise = np.random.default_rng(8)
    folder = tmp_path / "good"
    folder.mkdir()
    for name in ("1.png", "2.png", "3.jpg", "4.png"):
        Image.fromarray(noise.integers(90, 160, (70, 64, 3), dtype=np.uint8)).save(folder / name)
    return sorted(folder.iterdir())


def detector(tiny_configs, **more):
    return AnomalyDetector.from_backbone(
        model_config=tiny_configs, device="cpu", precision="fp32", **BACKBONE_OPTIONS, **more
    )


def same(one, other):
    mine, theirs = one.tensors(), other.tensors()
    assert set(mine) == set(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert one.threshold == other.threshold and one.config.references == other.config.references


@pytest.mark.parametrize(
    "more",
    [{}, {"method": "plus"}, {"method": "subspace"}, {**vars(WindowConfig("mul", 4, 4))}, WHOLE, RESIZED],
)
def test_more_references_are_as_if_all_had_been_shown_at_once(good, tiny_configs, tmp_path, more):
    grown, whole = detector(tiny_configs, **more), detector(tiny_configs, **more)
    grown.fit(good[:2], rotations=2)
    grown.save(tmp_path / "part.safetensors")
    grown = AnomalyDetector.load(tmp_path / "part.safetensors", device="cpu")
    grown.add_references(good[2:])
    whole.fit(good, rotations=2)
    assert [one.name for one in grown.stored] == [path.name for path in good]
    same(grown, whole)
    grown.forget("2.png", grown.stored[3].digest)
    whole.fit([good[0], good[2]], rotations=2)
    same(grown, whole)
    whole.fit([good[2], good[0]], rotations=2)
    assert grown.threshold == whole.threshold


def test_whether_references_are_rotated_is_decided_by_those_that_are_there_now(
    good, tiny_configs, tmp_path, monkeypatch
):
    monkeypatch.setattr("fdsl.references.rotation.LEAST_GAIN", 2.0)  # one reference is rotated, several not
    grown, whole = detector(tiny_configs), detector(tiny_configs)
    grown.fit(good[:1], rotations="auto")
    assert grown.config.rotations == 8
    grown.save(tmp_path / "part.safetensors")
    grown = AnomalyDetector.load(tmp_path / "part.safetensors", device="cpu")
    grown.add_references(good[1:3])
    whole.fit(good[:3], rotations="auto")
    same(grown, whole)
    assert grown.config.rotations == 1
    grown.forget("1.png", "2.png")
    whole.fit(good[2], rotations="auto")
    same(grown, whole)


def test_the_page_grows_a_saved_detector(good, tiny_configs, tmp_path):
    made, whole = detector(tiny_configs), detector(tiny_configs)
    made.fit(good[:2])
    made.save(tmp_path / "part.safetensors")
    whole.fit([good[1], good[2]])
    flags = ["--detector", str(tmp_path / "part.safetensors"), "--model-config", tiny_configs]
    grown = ["--add-references", str(good[2]), "--forget", "1.png"]
    opened = page_detector(page_flags.parse([*flags, *grown, "--device", "cpu", "--min-area", "9"], ""))
    same(opened, whole)
    assert opened.min_area == opened.another().min_area == 9


def test_no_control_character_of_a_references_name_is_printed(good, tiny_configs, tmp_path, capsys):
    good[0].rename(hostile := good[0].with_name("\x1b[2J\x07.png"))
    made = detector(tiny_configs)
    made.fit([hostile])
    made.save(tmp_path / "part.safetensors")
    assert predict.main(["--detector", str(tmp_path / "part.safetensors"), "--show"]) == 0
    printed = capsys.readouterr().out
    assert "[2J" in printed and "\x1b" not in printed and "\x07" not in printed


def test_what_was_fitted_is_listed(good, tiny_configs, tmp_path):
    made = detector(tiny_configs)
    made.fit([*good[:2], good[0], Image.open(good[3])])
    assert [one.name for one in made.stored] == ["1.png", "2.png", "photograph 4.png"]
    assert {one.day for one in made.stored} == {date.today().isoformat()}
    file = tmp_path / "part.safetensors"
    made.save(file)
    with safe_open(file, framework="pt") as saved:
        listed = json.loads(saved.metadata()["fdsl_detector"])["reference_files"]
    assert listed == [list(one.facts) for one in made.stored]
    assert AnomalyDetector.load(file, device="cpu").stored == made.stored


def test_a_failed_lesson_changes_nothing(good, tiny_configs, tmp_path):
    made = detector(tiny_configs)
    made.fit(good[:2])
    before = made.tensors()
    (tmp_path / "broken.png").write_bytes(b"no photograph")
    with pytest.raises(DataError):
        made.add_references(tmp_path / "broken.png")
    with pytest.raises(ConfigError, match="--forget nobody is none of the references"):
        made.forget("nobody")
    with pytest.raises(DataError, match="references: there is no photograph"):
        made.forget("1.png", "2.png")
    assert all(torch.equal(value, before[name]) for name, value in made.tensors().items())


def test_a_detector_without_its_references_says_so(good, tiny_configs, monkeypatch, logged):
    made = detector(tiny_configs)
    monkeypatch.setattr("fdsl.references.reference_store.MOST_BYTES", 10)
    made.fit(good)
    assert made.stored == [] and "they are not stored in the detector" in logged()
    for change in (lambda: made.add_references(good), lambda: made.forget("1.png")):
        with pytest.raises(ConfigError, match="does not carry its references"):
            change()


@pytest.mark.parametrize(
    "choose",
    [
        lambda made: made.set_threshold(0.123),
        lambda made: made.learn_threshold([*made.good, made.bad], [False] * len(made.good) + [True]),
        lambda made: setattr(made, "threshold", None),
    ],
    ids=["given", "from labels", "none"],
)
def test_a_threshold_that_somebody_chose_stays(good, tiny_configs, tmp_path, choose):
    made = detector(tiny_configs)
    made.fit(good[:3])
    made.good, made.bad = good, tmp_path / "bad.png"
    Image.new("RGB", (64, 64), "red").save(made.bad)
    choose(made)
    chosen = made.threshold
    made.add_references(good[3])
    assert made.threshold == chosen and made.decision.normal is not None and made.config.references == 4
    made.forget("2.png")
    assert made.threshold == chosen and made.config.references == 3
    made.add_references(good[1], false_alarm_rate=0.05)
    assert made.threshold != chosen and "rate 0.05" in made.threshold.source


@pytest.mark.parametrize("rate", [0.2, 0.05, 1e-6, None])
def test_a_rate_that_somebody_chose_stays(good, tiny_configs, rate):
    grown, whole = detector(tiny_configs), detector(tiny_configs)
    grown.fit(good[:3], false_alarm_rate=rate)
    grown.add_references(good[3])
    whole.fit(good, false_alarm_rate=rate)
    same(grown, whole)
    grown.forget("2.png")
    whole.fit([good[0], *good[2:]], false_alarm_rate=rate)
    same(grown, whole)


def test_the_command_keeps_them_too(good, tiny_configs, tmp_path, logged):
    made, file = detector(tiny_configs), str(tmp_path / "part.safetensors")
    made.fit(good[:3])
    for score, flags in ((0.321, []), (0.5, ["--threshold", "0.5"])):
        made.set_threshold(0.321)
        made.save(file)
        predict.main(["--detector", file, "--forget", "1.png", "--save-detector", file, *flags])
        assert AnomalyDetector.load(file).threshold.score == score
    made.calibrate(0.2)
    made.save(file)
    predict.main(["--detector", file, "--add-references", str(good[3]), "--save-detector", file])
    assert "rate 0.2 " in AnomalyDetector.load(file).threshold.source


def test_a_name_that_two_references_have_is_a_question(good, tiny_configs, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other/1.png"
    other.write_bytes(good[1].read_bytes())
    made = detector(tiny_configs)
    made.fit([good[0], other, good[2]])
    with pytest.raises(ConfigError, match="which of the 2 references of this name") as question:
        made.forget("1.png")
    digests = [one.digest for one in made.stored if one.name == "1.png"]
    assert all(digest in str(question.value) for digest in digests) and len(made.stored) == 3
    made.forget(digests[1])
    assert [one.digest for one in made.stored if one.name == "1.png"] == digests[:1]
    made.forget("1.png")
    assert [one.name for one in made.stored] == ["3.jpg"]


def test_references_are_not_unpacked(good, tiny_configs, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    made, seen = detector(tiny_configs), []
    made.fit(good[:3])
    plain = AnomalyDetector.fit

    def fit(self, *given, **how):
        seen.extend(tmp_path.glob("temporary/*"))
        plain(self, *given, **how)

    monkeypatch.setattr(AnomalyDetector, "fit", fit)
    made.add_references(good[3])
    assert seen == [] and [one.name for one in made.stored] == [path.name for path in good]


def test_the_command_adds_forgets_and_shows(good, tiny_configs, place, tmp_path, capsys):
    encoder = ["--model", "ViT-tiny-test", "--pretrained", "none", "--layers", "1", "3", "--image-size", "64"]
    made = [*encoder, "--model-config", tiny_configs, "--method", "nearest", *RUNTIME]
    look = ["--input", str(place / "parts/2.png"), "--output"]
    first, second = str(tmp_path / "1.safetensors"), str(tmp_path / "2.safetensors")
    predict.main([*look, str(tmp_path / "a"), "--references", str(good[0]), *made, "--save-detector", first])
    grow = ["--detector", first, "--add-references", str(good[1]), str(good[2]), "--save-detector", second]
    assert predict.main(grow) == 0
    predict.main([*look, str(tmp_path / "b"), "--detector", second, "--forget", "1.png"])
    predict.main([*look, str(tmp_path / "c"), "--references", str(good[1]), str(good[2]), *made])
    scores = [rows(tmp_path / name / "scores.csv")[0] for name in "bc"]
    assert scores[0] == scores[1]
    capsys.readouterr()
    assert predict.main(["--detector", second, "--show"]) == 0
    shown = capsys.readouterr().out
    assert "Method: nearest" in shown and "References: 3" in shown and "Threshold: 0." in shown
    assert all(one.digest in shown and one.name in shown for one in to_store(dict(enumerate(good[:3]))))


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--show"], "--show is for --detector"),
        (["--add-references", "x", "--references", "y", "--input", "z"], "name it with --detector"),
        (["--forget", "x", "--references", "y", "--input", "z"], "name it with --detector"),
        (["--detector", "x"], "--input is needed"),
        (["--references", "x"], "--input is needed"),
        (["--references", "x", "--save-detector", "y", "--with-batch"], "--input is needed"),
        (["--references", "x", "--save-detector", "y", "--exit-code"], "no --input"),
    ],
)
def test_flags_that_do_not_go_together(flags, words, capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main(flags)
    assert ended.value.code == 2 and words in capsys.readouterr().err
