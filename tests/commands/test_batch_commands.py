"""The test images compared with each other, through the commands."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fdsl.api import AnomalyDetector
from fdsl.store.checkpoint import save_checkpoint
from fdsl.store.maps import load_maps
from models.methods.fdsl import Fdsl
from tests.support.both_layouts import BACKBONE
from tests.support.photographs import draw, texture
from tests.support.predictions import BACKBONE_OPTIONS, rows
from tests.support.run_config import heads_of
from tests.support.small_runs import command
from utils.config import BackboneConfig, MethodConfig
from utils.errors import ConfigError, DataError

app, test, predict = command("app"), command("test"), command("predict")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """good/ with two references, and parts/ with nine good photographs, a defective and a broken one."""
    root = tmp_path_factory.mktemp("line")
    for number in (1, 2):
        draw(root / "good" / f"{number}.png", number)
    for number in range(9):
        draw(root / "parts" / f"{number}.png", 20 + number)
    draw(root / "parts" / "x.png", 40, defect=True)
    (root / "parts" / "broken.png").write_bytes(b"not an image")
    return root


def predicted(line, backbone, output, *flags):
    predict.main(["--input", str(line / "parts"), "--output", str(output), *flags, *backbone])
    return {row["image"]: row for row in rows(output / "scores.csv")}


def score_of(found):
    return {name: float(row["score"]) for name, row in found.items()}


def test_without_references_the_odd_one_stands_out(line, backbone, tmp_path):
    found = predicted(line, backbone, tmp_path / "out", "--method", "batch", "--threshold", "batch")
    assert len(found) == 10 and max(found, key=lambda name: float(found[name]["score"])) == "x.png"
    assert found["x.png"]["anomalous"] == "true" and (tmp_path / "out/skipped.csv").is_file()
    report = (tmp_path / "out/report.html").read_text()
    assert "sees the test set" in report and "highest 0.5 % of patches" in report


def test_tiles_of_the_inspected_are_compared_too(line, backbone, tmp_path):
    plain = predicted(line, backbone, tmp_path / "plain", "--method", "batch")
    flags = ["--method", "batch", "--tiles", "2", "--save-maps"]
    found = predicted(line, backbone, tmp_path / "tiles", *flags)
    assert (
        score_of(found) != score_of(plain) and max(found, key=lambda name: score_of(found)[name]) == "x.png"
    )
    assert np.load(tmp_path / "tiles/maps.npz")["fused"].shape[1:] == (16, 16)


def test_beside_a_method_it_is_another_score_and_resumes(line, backbone, tmp_path):
    flags = ["--references", str(line / "good"), "--method", "nearest"]
    plain = score_of(predicted(line, backbone, tmp_path / "plain", *flags))
    beside = score_of(predicted(line, backbone, tmp_path / "beside", *flags, "--with-batch"))
    assert plain.keys() == beside.keys() and plain != beside
    again = score_of(predicted(line, backbone, tmp_path / "beside", *flags, "--with-batch", "--resume"))
    assert again == beside
    report = (tmp_path / "beside/report.html").read_text()
    assert "sees the test set" in report and "half that of mutual scoring" in report
    assert "sees the test set" not in (tmp_path / "plain/report.html").read_text()


@pytest.mark.usefixtures("no_validation")
def test_each_photograph_goes_through_the_backbone_once(
    line, backbone, datasets, tiny_configs, logged, tmp_path, monkeypatch
):
    from models.backbones.open_clip import OpenClipBackbone

    encode, images = OpenClipBackbone.encode, []

    def counted(self, batch, *more):
        images.append(len(batch))
        return encode(self, batch, *more)

    monkeypatch.setattr(OpenClipBackbone, "encode", counted)
    predicted(line, backbone, tmp_path / "out", "--method", "batch", "--threshold", "batch")
    assert sum(images) == 10 and "of disk in" in logged() and "encoded beforehand" in logged()
    assert not list(tmp_path.rglob(".fdsl-*"))
    images.clear()
    places = ["--data-path", str(datasets[0]), "--results", str(tmp_path / "results"), "--pictures", "0"]
    test.main(["--dataset", "mvtec", "--method", "batch", *places, "--model-config", tiny_configs, *BACKBONE])
    assert sum(images) == 8
    test.main(
        ["--dataset", "mvtec", "--method", "batch", "--tiles", "2", *places, "--model-config", tiny_configs]
        + BACKBONE
    )
    assert len(list(tmp_path.rglob("metrics.json"))) == 2


@pytest.mark.parametrize("method, tiles", [("batch", 1), ("batch", 2), ("nearest", 1)])
def test_a_saved_detector_compares_with_what_it_was_shown(
    line, backbone, tiny_configs, tmp_path, method, tiles
):
    made = AnomalyDetector.from_backbone(
        method=method,
        tiles=tiles,
        with_batch=method == "nearest",
        model_config=tiny_configs,
        device="cpu",
        precision="fp32",
        **BACKBONE_OPTIONS,
    )
    references = [] if method == "batch" else [line / "good" / "1.png", line / "good" / "2.png"]
    shown = sorted((line / "parts").glob("[0-9x].png"))
    made.fit(references, test_images=shown)
    made.save(tmp_path / "part.safetensors")
    loaded = AnomalyDetector.load(tmp_path / "part.safetensors", model_config=tiny_configs, device="cpu")
    known, again = (one.scorer.detector for one in (made, loaded))
    memories = [
        one.memories.whole if method == "batch" else one.method.test_images.memory for one in (known, again)
    ]
    assert (again.memories.tiles is not None) == (tiles == 2) and again.layout == known.layout
    assert len(memories[1].numbers) == len(shown) and memories[0].numbers == memories[1].numbers
    for one in (loaded, made.another()):
        for before, after in zip(made.predict(shown[-2:]), one.predict(shown[-2:])):
            assert before.score == after.score and np.array_equal(before.patch_map, after.patch_map)


def test_a_run_says_that_it_sees_the_test_set(datasets, tiny_configs, tmp_path):
    shutil.copytree(datasets[0], tmp_path / "mvtec")
    places = ["--data-path", str(tmp_path / "mvtec"), "--results", str(tmp_path / "results")]
    common = ["--dataset", "mvtec", "--pictures", "0", *places, "--model-config", tiny_configs, *BACKBONE]
    test.main([*common, "--method", "batch"])
    test.main([*common, "--method", "nearest", "--with-batch"])
    (alone,) = (tmp_path / "results/fdsl/mvtec/0shot/seed14").iterdir()
    (beside,) = (tmp_path / "results/fdsl/mvtec/1shot/seed14").iterdir()
    assert "batch" in alone.name and "batch" in beside.name
    for run in (alone, beside):
        assert "sees the test set" in (run / "table.md").read_text()
        maps = load_maps(run / "maps.npz").maps.base
        assert np.isfinite(maps).all() and maps.std() > 0
    config = json.loads((beside / "config.json").read_text())
    assert config["options"]["with_batch"] is True
    with pytest.raises(SystemExit, match="2"):
        test.main(["--from-maps", str(alone), "--with-batch", "--results", str(tmp_path / "never")])


@pytest.mark.parametrize(
    "flags, error, words",
    [
        (["--method", "batch", "--winmode", "mul"], ConfigError, "--winmode mul does not go"),
        (["--method", "batch", "--with-batch"], ConfigError, "--with-batch does not go"),
        (["--method", "batch", "--references", "good"], ConfigError, "takes no references"),
        (["--method", "batch", "--input", "parts/1.png"], DataError, "give 2 or more"),
        (["--method", "batch", "--input", "parts/1.png", "parts/2.png", "--threshold", "batch"],
         ConfigError, "needs 8 of them"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_a_sentence(line, backbone, tmp_path, monkeypatch, flags, error, words):
    monkeypatch.chdir(line)
    given = [] if "--input" in flags else ["--input", "parts"]
    with pytest.raises(error, match=words):
        predict.main([*given, "--output", str(tmp_path / "out"), *flags, *backbone])


def test_test_py_refuses_shots_for_it_and_the_page_references(datasets, tiny_configs, tmp_path):
    common = ["--dataset", "mvtec", "--data-path", str(datasets[0]), "--results", str(tmp_path)]
    with pytest.raises(ConfigError, match="--method batch takes no references: leave .* --k-shot out"):
        test.main([*common, "--method", "batch", "--k-shot", "1", "--model-config", tiny_configs, *BACKBONE])
    places = ["--model-config", tiny_configs, *BACKBONE[:-2], "--references", str(tmp_path)]
    for flags in (["--method", "batch"], ["--method", "nearest", "--with-batch"]):
        with pytest.raises(ConfigError, match="leave --references out"):
            app.main([*flags, *places])


def test_without_references_it_is_not_added_to_a_method(datasets, tiny_configs, tiny_backbone, tmp_path):
    common = ["--dataset", "mvtec", "--data-path", str(datasets[0]), "--results", str(tmp_path)]
    common += ["--model-config", tiny_configs, *BACKBONE]
    with pytest.raises(ConfigError, match="--rotate-references does not go with --method batch"):
        test.main([*common, "--method", "batch", "--rotate-references", "4"])
    torch.manual_seed(0)
    heads = tmp_path / "none.safetensors"
    options = MethodConfig(fd="none")
    trained = heads_of(BackboneConfig(**BACKBONE_OPTIONS), options, tiny_backbone.fingerprint, "visa")
    save_checkpoint(heads, Fdsl(32, 2, options).state_dict(), trained)
    with pytest.raises(ConfigError, match="give at least one, or compare"):
        test.main([*common, "--checkpoint", str(heads), "--k-shot", "0", "--with-batch"])
    made = AnomalyDetector.from_checkpoint(
        heads, with_batch=True, winmode="nan", model_config=tiny_configs, device="cpu", precision="fp32"
    )
    with pytest.raises(ConfigError, match="--with-batch is added to a method with references"):
        made.fit([], test_images=[texture(1), texture(2)])


def test_photographs_of_12_bits_are_read_in_one_range(tiny_configs, tmp_path):
    generator = np.random.default_rng(0)
    for name in ("train/good/0.png", "test/good/0.png", "test/good/1.png", "test/crack/0.png"):
        file = tmp_path / "parts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(100, 4096, (40, 40)).astype(np.uint16)).save(file)
    test.main(
        ["--dataset", "folder", "--data-path", str(tmp_path / "parts"), "--method", "batch", "--pictures"]
        + ["0", "--results", str(tmp_path / "results"), "--model-config", tiny_configs, *BACKBONE]
    )
    (config,) = (tmp_path / "results").rglob("config.json")
    (span,) = json.loads(config.read_text())["grey"].values()
    assert span == [0, 4095]


def test_only_a_threshold_of_the_references_comes_with_what_makes_it_better(line, backbone, logged, tmp_path):
    saved = str(tmp_path / "part.safetensors")
    flags = ["--references", str(line / "good"), "--method", "nearest", "--save-detector", saved]
    predicted(line, backbone, tmp_path / "one", *flags)
    advice = "Add calibration images"
    before = logged().count(advice)
    assert before
    where = [*backbone[backbone.index("--model-config") :]]
    predicted(line, where, tmp_path / "two", "--detector", saved, "--threshold", "0.5")
    assert logged().count(advice) == before


def test_pictures_are_opaque_from_the_level_of_a_threshold_from_the_batch_on(line, tiny_configs):
    made = AnomalyDetector.from_backbone(
        method="batch", model_config=tiny_configs, device="cpu", precision="fp32", **BACKBONE_OPTIONS
    )
    shown = sorted((line / "parts").glob("[0-9x].png"))
    made.fit(test_images=shown)
    assert made.heat_scale == (0.125, 0.25)
    made.learn_threshold_from_batch(shown, 0.05)
    assert made.heat_scale == (made.threshold.pixel_threshold / 2, made.threshold.pixel_threshold)
