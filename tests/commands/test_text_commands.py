"""Text alone and beside references, through the commands, saved detectors and the page."""

import json
import shutil

import numpy as np
import pytest

from fdsl.api import AnomalyDetector
from fdsl.store.maps import load_maps
from tests.support.both_layouts import BACKBONE
from tests.support.constants import REAL_BACKBONE
from tests.support.photographs import png, texture
from tests.support.predictions import BACKBONE_OPTIONS, rows
from tests.support.small_runs import command
from utils.errors import ConfigError, ModelError

test, predict, export = command("test"), command("predict"), command("export")


@pytest.fixture
def no_text_encoder(monkeypatch):
    """From the call on nobody can make a text encoder."""

    def forbid():
        def never(*_):
            raise AssertionError("a text encoder was asked for")

        monkeypatch.setattr("fdsl.factory.text_directions", never)

    return forbid


def predicted(place, output, *flags):
    predict.main(["--input", str(place / "parts"), "--output", str(output), *flags])
    return rows(output / "scores.csv")


def scores(found):
    return {row["image"]: row["score"] for row in found}


def test_text_alone_needs_no_reference(place, backbone, logged, tmp_path, no_text_encoder):
    flags = ["--method", "text", "--object", "metal nut", *backbone]
    saved = tmp_path / "nut.safetensors"
    found = predicted(place, tmp_path / "out", *flags, "--save-detector", str(saved))
    assert len(set(scores(found).values())) > 1 and "anomalous" not in found[0]
    assert "no threshold: scores only" in logged()
    report = (tmp_path / "out/report.html").read_text()
    assert "--object metal nut" in report and "no references" in report
    no_text_encoder()
    again = predicted(place, tmp_path / "again", "--detector", str(saved), *backbone[-8:])
    assert scores(again) == scores(found)
    decided = predicted(
        place, tmp_path / "two", "--detector", str(saved), "--threshold", "0.5", *backbone[-8:]
    )
    assert {row["anomalous"] for row in decided} <= {"false", "true"}


def test_other_words_are_another_run(place, backbone, tmp_path):
    nut, bolt = (
        predicted(place, tmp_path / name, "--method", "text", "--object", name, *backbone)
        for name in ("nut", "bolt")
    )
    assert scores(nut) != scores(bolt)
    one, other = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("nut", "bolt"))
    assert one["options"]["object"] == "nut" and one["digest"] != other["digest"]
    with pytest.raises(ConfigError, match="another|--resume"):
        predicted(place, tmp_path / "nut", "--method", "text", "--object", "bolt", "--resume", *backbone)
    own = ["--damaged-words", "rusty", "{} with a crack", "--resume"]
    resumed = [predicted(place, tmp_path / "own", "--method", "text", *own, *backbone) for _ in range(2)]
    assert resumed[0] == resumed[1] and scores(resumed[0]) != scores(nut)


@pytest.mark.parametrize("method", ["nearest", "plus", "fdsl"])
def test_beside_references_it_is_saved_with_the_detector(
    place, backbone, checkpoint, tmp_path, no_text_encoder, method
):
    heads = ["--checkpoint", str(checkpoint), "--winmode", "nan"] if method == "fdsl" else []
    known = ["--references", str(place / "good"), "--method", method, *heads, *backbone]
    plain = predicted(place, tmp_path / "plain", *known)
    saved = tmp_path / "part.safetensors"
    found = predicted(place, tmp_path / "text", *known, "--with-text", "--save-detector", str(saved))
    assert scores(plain).keys() == scores(found).keys() and scores(plain) != scores(found)
    assert all(row["threshold"] for row in found)
    report = (tmp_path / "text/report.html").read_text()
    assert "--with-text" in report and "half that of text" in report
    no_text_encoder()
    again = predicted(place, tmp_path / "again", "--detector", str(saved), *backbone[-8:])
    assert scores(again) == scores(found)
    more = ["--detector", str(saved), "--forget", "1.png"] if method == "nearest" else []
    if more:
        loaded = AnomalyDetector.load(saved, model_config=backbone[backbone.index("--model-config") + 1])
        name = loaded.stored[0].name
        before = loaded.predict(texture(3)).score
        loaded.forget(name)
        assert loaded.another().predict(texture(3)).score != before


def test_a_test_run_speaks_of_each_category_by_its_name(datasets, tiny_configs, logged, tmp_path):
    shutil.copytree(datasets[0] / "plate", tmp_path / "mvtec/metal_plate")
    places = ["--data-path", str(tmp_path / "mvtec"), "--results", str(tmp_path / "results")]
    common = ["--dataset", "mvtec", "--pictures", "0", *places, "--model-config", tiny_configs, *BACKBONE]
    test.main([*common, "--method", "text"])
    test.main([*common, "--method", "text", "--object", "metal plate"])
    test.main([*common, "--method", "text", "--object", "bolt"])
    folder = tmp_path / "results/fdsl/mvtec/0shot/seed14"
    runs = {
        json.loads((run / "config.json").read_text())["options"]["object"]: run for run in folder.iterdir()
    }
    maps = {name: load_maps(run / "maps.npz").maps.base for name, run in runs.items()}
    assert set(runs) == {"", "metal plate", "bolt"}
    assert np.array_equal(maps[""], maps["metal plate"]) and not np.array_equal(maps[""], maps["bolt"])
    assert "--object" not in (runs[""] / "table.md").read_text()
    assert "--object bolt" in (runs["bolt"] / "table.md").read_text()
    test.main([*common, "--method", "text"])
    assert "is finished: nothing to do" in logged()
    with pytest.raises(SystemExit, match="2"):
        test.main(["--from-maps", str(runs["bolt"]), "--object", "nut", "--results", str(tmp_path / "never")])


@pytest.mark.parametrize(
    "flags, error, words",
    [
        (["--method", "subspace", "--with-text", "--references", "good"], ConfigError,
         "defined for fdsl, nearest, plus"),
        (["--method", "text", "--with-text"], ConfigError, "--with-text does not go with --method text"),
        (["--method", "text", "--with-batch"], ConfigError, "--with-batch does not go with --method text"),
        (["--method", "text", "--tiles", "2"], ConfigError, "--tiles does not go with --method text"),
        (["--method", "text", "--references", "good"], ConfigError, "add --with-text to a method that does"),
        (["--method", "nearest", "--object", "nut", "--references", "good"], ConfigError, "words for text"),
        (["--method", "text", "--false-alarm-rate", "0.1"], ConfigError, "is estimated from references"),
        (["--method", "text", "--object", " "], ConfigError, "--object ' ': give 1 to 200"),
        (["--method", "text", "--damaged-words", "torn", "{0}"], ConfigError, "--damaged-words '{0}'"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_a_sentence(place, backbone, tmp_path, monkeypatch, flags, error, words):
    monkeypatch.chdir(place)
    with pytest.raises(error, match=words):
        predict.main(["--input", "parts", "--output", str(tmp_path / "out"), *flags, *backbone])


def test_test_py_refuses_what_has_no_text(datasets, tiny_configs, tmp_path):
    common = ["--dataset", "mvtec", "--data-path", str(datasets[0]), "--results", str(tmp_path)]
    with pytest.raises(ConfigError, match="--method text takes no references"):
        test.main([*common, "--method", "text", "--k-shot", "1", "--model-config", tiny_configs, *BACKBONE])
    timm = ["--model", "timm/test_vit", "--pretrained", "none", "--layers", "2", *BACKBONE[-6:]]
    with pytest.raises(ModelError, match="need a CLIP of open_clip"):
        test.main([*common, "--method", "text", *timm])
    assert not list(tmp_path.rglob("config.json"))


def test_weights_of_an_image_encoder_alone_are_a_sentence(shared, place, tmp_path):
    made = [f"--{name.replace('_', '-')}" for name in ("model", "pretrained", "model_config")]
    encoder = [part for flag, name in zip(made, ("model", "pretrained", "model_config"))
             for part in (flag, REAL_BACKBONE[name])]  # fmt: skip
    with pytest.raises(ModelError, match="holds no text encoder: --method text and --with-text need"):
        predict.main(["--input", str(place / "parts"), "--output", str(tmp_path / "out"), "--method", "text",
                      "--layers", "3", "--image-size", "64", *encoder])  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_it_is_not_exported(place, tiny_configs, tmp_path):
    made = AnomalyDetector.from_backbone(
        with_text=True, model_config=tiny_configs, device="cpu", precision="fp32", **BACKBONE_OPTIONS
    )
    made.fit(place / "good", false_alarm_rate=None)
    made.save(tmp_path / "part.safetensors")
    places = ["--detector", str(tmp_path / "part.safetensors"), "--output", str(tmp_path / "part.onnx")]
    with pytest.raises(ModelError, match="with text cannot be exported"):
        export.main([*places, "--model-config", tiny_configs])


@pytest.mark.parametrize("method", ["text", "nearest"])
def test_the_page_takes_it(place, tiny_configs, tmp_path, method):
    pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")
    from page.collection import Limits
    from page.session import Session
    from utils.errors import DataError

    made = AnomalyDetector.from_backbone(
        method=method, with_text=method != "text", object="bolt", model_config=tiny_configs, device="cpu",
        precision="fp32", **BACKBONE_OPTIONS
    )  # fmt: skip
    session = Session(made, tmp_path / "visitor", Limits(200_000))
    assert session.fit.is_ready == (method == "text")
    if method == "text":
        with pytest.raises(DataError, match="takes no references"):
            session.add("references", png(texture(1)), "good.png")
    else:
        session.add("references", png(texture(1)), "good.png")
        session.learn()
    number = session.add("photographs", png(texture(2)), "part.png")["number"]
    assert session.score(number)["score"] > 0
    assert AnomalyDetector.load(session.saved_detector(), model_config=tiny_configs).ready
