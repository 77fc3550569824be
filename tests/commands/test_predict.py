"""predict.py end to end on drawn photographs: what it finds, writes, skips, resumes and refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from fdsl.api import AnomalyDetector
from fdsl.inspection.score_files import MOST_WARNED
from fdsl.report import drawing
from fdsl.store.journal import Journal
from fdsl.store.maps import load_maps
from models.methods.fdsl import Fdsl
from tests.support.constants import ROOT
from tests.support.photographs import draw
from tests.support.predictions import RUNTIME, rows
from tests.support.small_runs import command
from utils.drift import Drift
from utils.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("one_thread")

predict = command("predict")


def test_nearest_works_without_any_training(place, backbone, tmp_path):
    out = tmp_path / "out"
    code = predict.main(
        [
            "--references",
            str(place / "good"),
            "--input",
            str(place / "parts"),
            "--output",
            str(out),
            "--save-maps",
            "--method",
            "nearest",
            *backbone,
        ]
    )
    assert code == 0
    table = rows(out / "scores.csv")
    assert list(table[0])[:4] == ["image", "score", "normal_percentile", "threshold"]
    assert [row["image"] for row in table] == ["2.png", "10.png", "line b/x,1.png", "line b/deep/7.JPG"]
    assert [row["anomalous"] for row in table] == ["false", "false", "true", "true"]
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    for row, line in zip(table, lines):
        assert float(row["score"]) == line["score"] and float(row["threshold"]) == line["threshold"]
        picture = Image.open(out / line["picture"])
        height, width = drawing.panel_size(60, 80, drawing.INSPECTION_SIDE)
        assert picture.size == (2 * width + drawing.PANEL_GAP, height + drawing.CAPTION_HEIGHT)
        assert (line["width"], line["height"]) == (80, 60)
        assert line["path"] == str(place / "parts" / line["image"])
    assert lines[0]["normal_percentile"] < 99 < lines[2]["normal_percentile"] <= 99.9
    assert [float(row["normal_percentile"]) for row in table] == [line["normal_percentile"] for line in lines]
    box = lines[2]["boxes"][0]
    assert box["x"] < 66 and box["x"] + box["width"] > 50 and box["y"] < 46 and box["y"] + box["height"] > 30
    assert float(table[2]["area"]) == box["area"] > 0 and table[0]["area"] == ""
    stored = load_maps(out / "maps.npz")
    assert stored.names == [row["image"] for row in table]
    maps = stored.maps
    assert maps.base.shape == (4, 8, 8) and maps.base.dtype == np.float32 and maps.window is None
    with np.load(out / "maps.npz") as saved:
        assert np.array_equal(saved["fused"], saved["base"]) and np.allclose(
            saved["score"], [line["score"] for line in lines]
        )
    page = (out / "report.html").read_text()
    assert "2 of 4 anomalous" in page and "broken.png" in page and "line b/x,1.png" in page
    assert Image.open(out / "contact_sheet.jpg").size[0] > 80
    assert rows(out / "skipped.csv")[0]["image"] == "line b/broken.png"
    assert not (out / ".partial").exists()
    assert json.loads((out / "config.json").read_text())["method"] == "nearest"


def test_masks_and_coco_hold_the_regions_of_the_rows(place, detector, tmp_path, tiny_configs):
    out = tmp_path / "out"
    common = ["--detector", str(detector), "--output", str(out), "--model-config", tiny_configs, *RUNTIME]
    given = ["--input", str(place / "parts"), *common, "--save-masks", "--coco", str(tmp_path / "found.json")]
    assert predict.main(given) == 0
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    for line in lines:
        mask = np.asarray(Image.open(out / line["mask"]))
        assert mask.shape == (line["height"], line["width"]) and mask.dtype == bool
        assert mask.sum() == sum(region["area"] for region in line["regions"])
        assert bool(line["regions"]) == line["anomalous"]
    coco = COCO(str(tmp_path / "found.json"))
    assert len(coco.getImgIds()) == 4
    assert len(coco.getAnnIds()) == sum(len(line["regions"]) for line in lines) > 0
    assert predict.main([*given, "--resume"]) == 0
    assert [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()] == lines
    smallest = min(region["area"] for line in lines for region in line["regions"])
    with pytest.raises(ConfigError, match="another min area"):
        predict.main([*given, "--resume", "--min-area", str(smallest + 1)])
    assert predict.main([*given, "--min-area", str(10**6)]) == 0
    again = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [line["score"] for line in again] == [line["score"] for line in lines]
    assert all(line["regions"] == [] for line in again) and [line["boxes"] for line in again] == [
        line["boxes"] for line in lines
    ]
    assert COCO(str(tmp_path / "found.json")).getAnnIds() == []
    assert predict.main(["--input", str(place / "parts" / "2.png"), *common]) == 0
    assert not (out / "masks").exists(), "masks of an earlier run would be of other photographs"


def test_a_region_of_interest_decides_what_is_found(place, backbone, tmp_path):
    """The drawn defect lies in columns 50 to 65 of 80."""
    half = np.zeros((6, 8), np.uint8)
    half[:, :4] = 255
    Image.fromarray(half).save(tmp_path / "left.png")
    common = ["--references", str(place / "good"), "--input", str(place / "parts"), "--output"]
    found = {}
    for flag in ("--roi", "--ignore"):
        out = tmp_path / flag
        assert predict.main([*common, str(out), flag, str(tmp_path / "left.png"), *backbone]) == 0
        found[flag] = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
        assert f"{flag} {tmp_path / 'left.png'}" in (out / "report.html").read_text()
    assert [row["anomalous"] for row in found["--ignore"]] == [False, False, True, True]
    assert not any(row["anomalous"] for row in found["--roi"])
    Image.fromarray(255 - half).save(tmp_path / "left.png")
    with pytest.raises(ConfigError, match="--resume"):
        given = [str(tmp_path / "--roi"), "--roi", str(tmp_path / "left.png"), "--resume", *backbone]
        predict.main([*common, *given])
    with pytest.raises(ConfigError, match="--roi and --ignore do not go with mutual scoring"):
        predict.main([*common, str(tmp_path), "--roi", str(tmp_path), "--with-batch", *backbone])


def test_what_is_taken_where_nothing_was_asked_for(
    place, checkpoint, backbone, tmp_path, logged, monkeypatch
):
    given = ["--references", str(place / "good"), "--input", str(place / "parts/2.png")]
    given += ["--output", str(tmp_path / "out"), *backbone]
    assert predict.main(given) == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["method"] == "plus" and config["windows"]["tiles"] == 1
    assert predict.main([*given, "--tiles", "2", "--rotate-references", "1"]) == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["windows"]["tiles"] == 2 and config["rotations"] == 1


def test_a_detector_is_fitted_and_saved_without_photographs_to_inspect(place, backbone, tmp_path):
    workers = backbone.index("--workers")
    made = backbone[:workers] + backbone[workers + 2 :]
    fitted = ["--references", str(place / "good/1.png"), str(place / "good/2.png"), *made]
    assert predict.main([*fitted, "--save-detector", str(tmp_path / "alone.safetensors")]) == 0
    inspected = ["--input", str(place / "parts"), "--output", str(tmp_path / "out")]
    assert predict.main([*fitted, "--save-detector", str(tmp_path / "same.safetensors"), *inspected]) == 0
    assert (tmp_path / "alone.safetensors").read_bytes() == (tmp_path / "same.safetensors").read_bytes()


def test_calibration_images_give_the_threshold_and_a_reason_is_in_every_row(
    place, backbone, tmp_path, logged
):
    Image.new("RGB", (80, 60)).save(place / "black.png")
    common = ["--input", str(place / "black.png"), str(place / "parts/10.png")]
    given = ["--references", str(place / "good/1.png"), "--output", str(tmp_path / "out"), *common, *backbone]
    calibration = ["--calibration", str(place / "good/2.png"), str(place / "good/3.png")]
    saved = ["--save-detector", str(tmp_path / "part.safetensors")]
    assert predict.main([*given, *calibration, *saved, "--exit-code"]) == 1
    assert "2 calibration images, which guarantee 0.33 at best; 99 guarantee 0.01" in logged()
    black, part = [json.loads(line) for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]
    assert black["anomalous"] and black["reason"] == "no part in the picture" and black["boxes"] == []
    assert part["reason"] is None
    table = {row["image"]: row for row in rows(tmp_path / "out" / "scores.csv")}
    assert sorted(row["reason"] for row in table.values()) == ["", "no part in the picture"]
    report = (tmp_path / "out/report.html").read_text()
    assert "anomalous: no part in the picture" in report
    trust = json.loads((tmp_path / "out/config.json").read_text())["trust"]
    assert trust.startswith("From 2 calibration images:") and trust in report
    detector = AnomalyDetector.load(tmp_path / "part.safetensors")
    before = detector.threshold
    again = ["--detector", str(tmp_path / "part.safetensors"), *common, "--output", str(tmp_path / "again")]
    again += ["--model-config", backbone[backbone.index("--model-config") + 1], *RUNTIME]
    assert (
        predict.main([*again, "--calibration", str(place / "good/3.png"), "--false-alarm-rate", "0.5"]) == 0
    )
    score = json.loads((tmp_path / "again/scores.jsonl").read_text().splitlines()[0])["threshold"]
    assert score != before.score
    with pytest.raises(SystemExit):
        predict.main([*given, *calibration, "--threshold", "0.5"])


def test_trained_heads_are_found_and_windows_have_their_scores(place, checkpoint, tiny_configs, tmp_path):
    arguments = [
        "--references",
        str(place / "good/1.png"),
        "--input",
        str(place / "parts/2.png"),
        "--output",
        str(tmp_path / "out"),
        "--model-config",
        tiny_configs,
        "--method",
        "fdsl",
        "--win-size",
        "4",
        "--win-stride",
        "2",
        "--win-weight",
        "0.25",
        "--save-maps",
        *RUNTIME,
    ]
    assert predict.main(["--checkpoint", str(checkpoint), *arguments]) == 0
    row = json.loads((tmp_path / "out/scores.jsonl").read_text())
    base, window = row["base_score"], row["window_score"]
    assert row["image"] == "2.png"
    assert row["score"] == pytest.approx(0.75 * base + 0.25 * window, rel=1e-6)
    with np.load(tmp_path / "out/maps.npz") as saved:
        assert set(saved.files) == {"names", "base", "window", "fused", "base_score", "window_score", "score"}
        assert np.allclose(saved["fused"], 0.75 * saved["base"] + 0.25 * saved["window"])
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["method"] == "fdsl" and config["trained_on"] == "visa"


def test_a_published_checkpoint_takes_the_flags(place, backbone, tmp_path):
    torch.manual_seed(1)
    state = {}
    for name, value in Fdsl(32, 2, with_nam=False).state_dict().items():
        _, head, _, layer, what = name.split(".")
        state[
            f"clsList.{head}.fbatchNorm.{what}"
            if layer == "0"
            else f"clsList.{head}.proj.{int(layer) - 1}.{what}"
        ] = value
    torch.save({"trainable_RR": state}, tmp_path / "old.pth")
    assert (
        predict.main(
            [
                "--checkpoint",
                str(tmp_path / "old.pth"),
                "--winmode",
                "nan",
                "--references",
                str(place / "good"),
                "--input",
                str(place / "parts/2.png"),
                "--output",
                str(tmp_path / "out"),
                *backbone,
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "out/scores.jsonl").read_text())["window_score"] is None


def test_a_saved_detector_scores_the_same(place, backbone, tmp_path):
    common = ["--input", str(place / "parts"), "--pictures", "none"]
    predict.main(
        [
            "--references",
            str(place / "good"),
            "--method",
            "nearest",
            "--rotate-references",
            "2",
            "--save-detector",
            str(tmp_path / "part.safetensors"),
            "--output",
            str(tmp_path / "one"),
            *common,
            *backbone,
        ]
    )
    predict.main(
        [
            "--detector",
            str(tmp_path / "part.safetensors"),
            "--output",
            str(tmp_path / "two"),
            *common,
            *RUNTIME,
        ]
    )
    for name in ("scores.csv", "scores.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not (tmp_path / "one/pictures").exists() and not (tmp_path / "one/contact_sheet.jpg").exists()


def test_json_lines_on_standard_output_and_exit_codes(place, detector, capsys):
    arguments = ["--detector", str(detector), "--format", "json", *RUNTIME]
    assert predict.main([*arguments, "--input", str(place / "parts")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["image"] for line in lines if "score" in line} == {
        "2.png",
        "10.png",
        "line b/x,1.png",
        "line b/deep/7.JPG",
    }
    assert [line["image"] for line in lines if "error" in line] == ["line b/broken.png"]
    assert predict.main([*arguments, "--exit-code", "--input", str(place / "parts")]) == 1
    assert predict.main([*arguments, "--exit-code", "--input", str(place / "parts/2.png")]) == 0


def test_nothing_to_score_is_an_error(place, detector, tmp_path):
    with pytest.raises(DataError, match="no photograph could be scored"):
        predict.main(
            [
                "--detector",
                str(detector),
                "--input",
                str(place / "parts/line b/broken.png"),
                "--output",
                str(tmp_path / "out"),
                *RUNTIME,
            ]
        )
    assert not (tmp_path / "out/scores.csv").exists()


@pytest.mark.slow
def test_the_process_says_what_it_skipped_and_its_exit_code(place, detector, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [
            sys.executable,
            str(ROOT / "predict.py"),
            "--detector",
            str(detector),
            "--input",
            str(place / "parts/line b"),
            "--format",
            "json",
            "--exit-code",
            *RUNTIME,
        ],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert run.returncode == 1, run.stderr
    assert "broken.png: is not an image" in run.stderr and "Traceback" not in run.stderr
    assert len(run.stdout.splitlines()) == 3


def test_thresholds(place, detector, tmp_path, capsys):
    def decisions(*flags):
        predict.main(
            [
                "--detector",
                str(detector),
                "--input",
                str(place / "parts"),
                "--format",
                "json",
                *RUNTIME,
                *flags,
            ]
        )
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [row["anomalous"] for row in found if "score" in row], next(
            r["threshold"] for r in found if "score" in r
        )

    assert decisions("--false-alarm-rate", "none") == ([None] * 4, None)
    assert decisions("--threshold", "0") == ([True] * 4, 0)
    assert decisions("--false-alarm-rate", "0.3")[1] < decisions("--false-alarm-rate", "0.001")[1]
    for number in range(2):
        draw(tmp_path / "labelled/ok" / f"{number}.png", 50 + number)
        draw(tmp_path / "labelled/red" / f"{number}.png", 60 + number, defect=True)
    found = decisions("--labels", str(tmp_path / "labelled"))
    assert found[0] == [False, False, True, True]
    (tmp_path / "labels.csv").write_text(
        "image,label\n"
        + "".join(
            f"labelled/{name}/{number}.png,{label}\n"
            for name, label in (("ok", "good"), ("red", 1))
            for number in range(2)
        )
    )
    assert decisions("--labels", str(tmp_path / "labels.csv")) == found


@pytest.mark.parametrize("table", ["", "image,label\n", "photo,label\na.png,0\n", "image,label\na.png\n"])
def test_labels_that_are_none_are_refused(place, detector, tmp_path, table):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DataError, match="labels.csv"):
        predict.main(
            [
                "--detector",
                str(detector),
                "--input",
                str(place / "parts"),
                "--format",
                "json",
                "--labels",
                str(tmp_path / "labels.csv"),
                *RUNTIME,
            ]
        )


@pytest.mark.parametrize(
    "flags, reported",
    [
        (["--output", "o"], "--references"),
        (["--references", "r"], "--output"),
        (["--references", "r", "--format", "json", "--save-maps"], "--output"),
        (["--detector", "d", "--references", "r", "--output", "o"], "does not go with --detector"),
        (["--detector", "d", "--winmode", "nan", "--output", "o"], "does not go with --detector"),
        (
            ["--references", "r", "--output", "o", "--threshold", "1", "--false-alarm-rate", "0.1"],
            "two thresholds",
        ),
        (["--references", "r", "--output", "o", "--labels", "l", "--threshold", "1"], "two thresholds"),
        (["--references", "r", "--output", "o", "--threshold", "best"], "not a finite number, nor batch"),
        (["--references", "r", "--output", "o", "--method", "fdsl"], "needs trained heads: name them with"),
        (["--references", "r", "--output", "o", "--threshold", "nan"], "finite"),
        (["--references", "r", "--output", "o", "--false-alarm-rate", "1.5"], "is not a number from 1e-09"),
        (["--references", "r", "--output", "o", "--rotate-references", "0"], "whole number"),
    ],
)
def test_contradictory_flags_are_refused_before_anything_is_loaded(flags, reported, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.main(["--input", "x.png", *flags])
    printed = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and reported in printed
        and printed.startswith("error: ")
        and printed.count("\n") == 1
    )


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--win-size", "2"], "--win-size is for local windows"),
        (["--window-budget"], "--window-budget is for local windows"),
    ],
)
def test_flags_that_mean_nothing_without_trained_heads_are_refused(place, backbone, tmp_path, flags, words):
    with pytest.raises(ConfigError, match=words):
        predict.main(
            [
                "--references",
                str(place / "good"),
                "--input",
                str(place / "parts"),
                "--output",
                str(tmp_path / "o"),
                *flags,
                *backbone,
            ]
        )


def test_what_is_not_there_is_named(place, backbone, checkpoint, tmp_path):
    out = ["--output", str(tmp_path / "out"), *backbone]
    with pytest.raises(DataError, match="nowhere"):
        predict.main(["--references", str(place / "good"), "--input", str(tmp_path / "nowhere"), *out])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photograph"):
        predict.main(["--references", str(tmp_path / "empty"), "--input", str(place / "parts"), *out])
    with pytest.raises(ConfigError, match="--image-size 32 does not match"):
        predict.main(
            [
                "--references",
                str(place / "good"),
                "--input",
                str(place / "parts"),
                "--checkpoint",
                str(checkpoint),
                *out[:2],
                "--image-size",
                "32",
                *RUNTIME,
            ]
        )
    assert not (tmp_path / "out").exists()


# Going on where a run stopped -------------------------------------------------------------------------------


def stop_after(monkeypatch, count):
    """Makes the run break off when `count` photographs are in the journal."""
    plain = Journal.add

    def add(self, row, *maps):
        if (self.folder / "rows.jsonl").read_bytes().count(b"\n") >= count:
            raise KeyboardInterrupt
        plain(self, row, *maps)

    monkeypatch.setattr(Journal, "add", add)


@pytest.mark.parametrize("damage", ["none", "half a line", "a map too few"])
def test_resume_scores_only_what_is_missing(place, detector, tmp_path, monkeypatch, damage):
    arguments = [
        "--detector",
        str(detector),
        "--input",
        str(place / "parts"),
        "--save-maps",
        "--batch-size",
        "1",
        *RUNTIME,
    ]
    predict.main([*arguments, "--output", str(tmp_path / "whole")])
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            predict.main([*arguments, "--output", str(out)])
    assert not (out / "scores.csv").exists()
    if damage == "half a line":
        with open(out / ".partial/rank0/rows.jsonl", "a") as journal:
            journal.write('{"image": "line b/x')
    if damage == "a map too few":
        journal = out / ".partial/rank0/rows.jsonl"
        first, second = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(first + second.partition(b"\t")[0] + b"\n")
    scored = []
    plain = AnomalyDetector.begin_batch
    monkeypatch.setattr(
        AnomalyDetector,
        "begin_batch",
        lambda self, batch, sizes, names: scored.append(len(sizes)) or plain(self, batch, sizes, names),
    )
    predict.main([*arguments, "--output", str(out), "--resume"])
    assert sum(scored) == (3 if damage == "a map too few" else 2)
    assert (out / "scores.csv").read_bytes() == (tmp_path / "whole/scores.csv").read_bytes()
    one, two = (np.load(folder / "maps.npz") for folder in (out, tmp_path / "whole"))
    assert all(np.array_equal(one[name], two[name]) for name in two.files)


def test_resume_of_a_finished_run_takes_new_photographs_in(place, detector, tmp_path):
    draw(tmp_path / "parts/1.png", 70)
    arguments = [
        "--detector",
        str(detector),
        "--input",
        str(tmp_path / "parts"),
        "--output",
        str(tmp_path / "out"),
        "--save-maps",
        "--resume",
        *RUNTIME,
    ]
    predict.main(arguments)
    first = rows(tmp_path / "out/scores.csv")
    draw(tmp_path / "parts/0.png", 71, defect=True)
    predict.main(arguments)
    assert [row["image"] for row in rows(tmp_path / "out/scores.csv")] == ["0.png", "1.png"]
    assert first[0].items() <= rows(tmp_path / "out/scores.csv")[1].items()
    assert "x" not in first[0]  # columns that no row fills are left out
    assert load_maps(tmp_path / "out/maps.npz").names == ["0.png", "1.png"]


def test_resume_with_other_settings_is_refused_and_a_new_run_leaves_nothing_old(place, detector, tmp_path):
    arguments = [
        "--detector",
        str(detector),
        "--input",
        str(place / "parts"),
        "--output",
        str(tmp_path / "out"),
        *RUNTIME,
    ]
    predict.main(arguments)
    with pytest.raises(ConfigError, match="threshold"):
        predict.main([*arguments, "--threshold", "0.5", "--resume"])
    predict.main([*arguments[:3], str(place / "parts/2.png"), *arguments[4:]])
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1
    assert not (tmp_path / "out/skipped.csv").exists()


def test_photographs_that_change_as_a_whole_are_reported(place, backbone, tmp_path, logged):
    line_of(tmp_path / "line", range(50))
    line_of(tmp_path / "line", range(50, 100), 0.7)
    run = ["--references", str(place / "good"), "--input", str(tmp_path / "line"), "--pictures", "none"]
    predict.main([*run, "--output", str(tmp_path / "out"), "--method", "nearest", *backbone])
    assert "the last 50 photographs are darker than the references and the first 50" in logged()


def line_of(folder, numbers, light=1.0):
    for number in numbers:
        draw(folder / f"{number}.png", number % 5)
        photo = Image.open(folder / f"{number}.png")
        photo.point(lambda value: value * light).save(folder / f"{number}.png")


def test_a_resumed_run_compares_with_its_first_photographs(place, backbone, tmp_path, logged):
    run = ["--references", str(place / "good"), "--input", str(tmp_path / "line"), "--pictures", "none"]
    run += ["--output", str(tmp_path / "out"), "--method", "nearest", *backbone]
    line_of(tmp_path / "line", range(50))
    predict.main(run)
    line_of(tmp_path / "line", range(50, 100), 0.7)
    predict.main([*run, "--resume"])
    assert "the last 50 photographs are darker than the references and the first 50" in logged()


def test_of_each_kind_of_warning_there_are_few(place, backbone, tmp_path, logged, monkeypatch):
    """Also of drift, which comes and goes on a line whose light flickers."""
    monkeypatch.setattr(Drift, "follow", lambda _, row: [f"changed; see {row['image']}"])
    line_of(tmp_path / "line", range(9))
    run = ["--references", str(place / "good"), "--input", str(tmp_path / "line"), "--pictures", "none"]
    predict.main([*run, "--output", str(tmp_path / "out"), "--method", "nearest", *backbone])
    assert len({line for line in logged().splitlines() if "changed; see" in line}) == MOST_WARNED["drift"] < 9
