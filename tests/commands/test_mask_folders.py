"""--roi DIR and --ignore DIR in the commands: each photograph with its own mask."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data.live import Source
from fdsl.api import AnomalyDetector
from fdsl.export.export_detector import export_detector
from fdsl.flags.detector_from_flags import page_detector
from fdsl.flags.page_flags import parse as parse_page
from fdsl.store.maps import load_maps
from tests.support.predictions import rows
from tests.support.small_runs import BACKBONE, command, draw_dataset, write_model_config
from utils.errors import ConfigError, DataError, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")
predict, test = command("predict"), command("test")


@pytest.fixture
def masks(place, tmp_path):
    """Of each photograph one whose left half, without the defect, is white; lines have a folder of their
    own."""
    half = np.zeros((6, 8), np.uint8)
    half[:, :4] = 255
    for photo in [*place.rglob("*.png"), *place.rglob("*.JPG")]:
        mask = (
            tmp_path / "masks" / photo.relative_to(place / "parts").with_suffix(".png")
            if ("parts" in photo.parts)
            else tmp_path / "masks" / photo.relative_to(place).with_suffix(".png")
        )
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(half).save(mask)
    return tmp_path / "masks"


def run(place, out, *more, references=True):
    given = ["--references", str(place / "good")] if references else []
    predict.main([*given, "--input", str(place / "parts"), "--output", str(out), *more])
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def test_predict_scores_each_photograph_by_its_own_mask(place, backbone, masks, tmp_path):
    found = run(place, tmp_path / "all", "--ignore", str(masks), *backbone)
    assert [row["anomalous"] for row in found] == [False, False, True, True]
    assert not any(row["anomalous"] for row in run(place, tmp_path / "roi", "--roi", str(masks), *backbone))
    saved = str(tmp_path / "part.safetensors")
    (masks / "10.png").unlink()
    left = run(place, tmp_path / "less", "--ignore", str(masks), "--save-detector", saved, *backbone)
    assert left == [row | {"picture": row["picture"]} for row in found if row["image"] != "10.png"]
    (skipped,) = [row for row in rows(tmp_path / "less/skipped.csv") if row["image"] == "10.png"]
    assert (
        skipped["reason"]
        .lstrip("'")
        .startswith(f"--ignore {masks}: holds no mask of 10.png; put 10.png there")
    )
    moved = shutil.move(masks, tmp_path / "moved")
    again = run(place, tmp_path / "again", "--detector", saved, "--ignore", str(moved), references=False)
    assert [(row["image"], row["score"]) for row in again] == [(row["image"], row["score"]) for row in left]
    with pytest.raises(SystemExit):
        run(place, tmp_path / "again", "--detector", saved, "--roi", str(moved / "2.png"), references=False)


def test_resume_scores_a_photograph_with_another_mask_again(place, backbone, masks, tmp_path, monkeypatch):
    given = ["--ignore", str(masks), *backbone]
    run(place, tmp_path / "out", *given)
    other = np.array(Image.open(masks / "10.png"))[:, ::-1]
    Image.fromarray(np.ascontiguousarray(other)).save(masks / "10.png")
    scored, plain = [], AnomalyDetector.begin_batch
    monkeypatch.setattr(
        *(AnomalyDetector, "begin_batch"),
        lambda self, batch, sizes, names=(): scored.extend(names) or plain(self, batch, sizes, names),
    )
    resumed = run(place, tmp_path / "out", "--resume", *given)
    assert scored == ["10.png"]
    fresh = {row["image"]: row for row in run(place, tmp_path / "fresh", *given)}
    assert {row["image"]: row for row in resumed} == fresh


def test_a_reference_without_a_mask_is_one_sentence(place, backbone, masks, tmp_path):
    (masks / "good/3.png").unlink()
    with pytest.raises(DataError, match="--roi .*masks: holds no mask of 3.png; put 3.png there"):
        run(place, tmp_path / "out", "--roi", str(masks), *backbone)
    assert not (tmp_path / "out/scores.csv").exists()


def test_cameras_pages_and_exported_files_refuse_folders(place, backbone, masks, tmp_path, monkeypatch):
    monkeypatch.setattr(Source, "check", lambda _: None)
    at = backbone.index("--workers")
    flags = ["--references", str(place / "good"), "--roi", str(masks), *backbone[:at], *backbone[at + 2 :]]
    with pytest.raises(ConfigError, match="masks of files, and 0 gives frames"):
        predict.main([*flags, "--input", "0", "--output", str(tmp_path / "out")])
    with pytest.raises(ConfigError, match="masks of files, and photographs on the page have no such names"):
        page_detector(parse_page(flags, ""))
    saved = tmp_path / "part.safetensors"
    predict.main(
        [
            *flags,
            "--input",
            str(place / "parts"),
            "--output",
            str(tmp_path / "out"),
            "--save-detector",
            str(saved),
        ]
    )
    with pytest.raises(ModelError, match="an exported detector has one for all"):
        export_detector(AnomalyDetector.load(saved, device="cpu"), tmp_path / "part.onnx")


def test_a_test_run_takes_a_mask_for_each_image(tmp_path):
    data = draw_dataset(tmp_path / "data", ("cup", "nut"))
    half = np.zeros((4, 4), np.uint8)
    half[:2] = 255
    for photo in data.rglob("*.png"):
        if "ground_truth" not in photo.parts:
            mask = tmp_path / "masks" / photo.relative_to(data).with_suffix(".bmp")
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(half).save(mask)
    Image.fromarray(half).save(tmp_path / "top.png")
    flags = [
        "--dataset",
        "mvtec",
        "--data-path",
        str(data),
        "--method",
        "nearest",
        "--pictures",
        "0",
        *BACKBONE,
    ]
    flags += ["--model-config", str(write_model_config(tmp_path / "configs"))]

    def maps(name, roi):
        test.main([*flags, "--results", str(tmp_path / name), "--roi", str(roi)])
        (file,) = (tmp_path / name).rglob("maps.npz")
        return load_maps(file)

    own, one = maps("own", tmp_path / "masks"), maps("one", tmp_path / "top.png")
    assert own.names == one.names and (own.maps.base == one.maps.base).all() and own.maps.base.any()
    assert (own.maps.base[:, own.maps.base.shape[1] // 2 :] == 0).all()
    changed = tmp_path / "masks/nut/test/spot/003.bmp"
    size = changed.stat().st_size
    Image.fromarray(half[::-1].copy()).save(changed)
    repeated = maps("own", tmp_path / "masks")
    assert changed.stat().st_size == size and (repeated.maps.base != own.maps.base).any()
    changed.unlink()
    with pytest.raises(DataError, match="--roi .*masks: holds no mask of 003.png"):
        maps("refused", tmp_path / "masks")
    assert not list((tmp_path / "refused").rglob("maps.npz"))
