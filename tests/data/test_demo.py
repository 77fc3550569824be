"""The demo: layout to the letter, same seed same bytes, masks that are the visible change, all or nothing."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import demo

NORMAL, DEFECTIVE = 1, 2  # a small demo


def digest(folder: Path) -> dict[str, str]:
    """Every file below `folder` with the hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    assert demo.write_demo(folder, seed=3, normal=NORMAL, defective=DEFECTIVE)
    return folder


def test_mvtec_layout_is_exact(made):
    root = made / "mvtec"
    assert sorted(path.name for path in root.iterdir()) == sorted(demo.MVTEC)
    images = [f"{number:03d}.png" for number in range(DEFECTIVE)]
    masks = [f"{number:03d}_mask.png" for number in range(DEFECTIVE)]
    wanted = {"train/good": images[:NORMAL], "test/good": images[:NORMAL]}
    wanted |= {"test/defect": images, "ground_truth/defect": masks}
    for category in demo.MVTEC:
        files = [path.relative_to(root / category) for path in (root / category).rglob("*.png")]
        assert sorted(map(str, files)) == sorted(f"{p}/{name}" for p in wanted for name in wanted[p])


def test_visa_layout_is_exact(made):
    root = made / "visa"
    assert sorted(path.name for path in root.iterdir()) == sorted([*demo.VISA, "split_csv"])
    with open(root / "split_csv" / "1cls.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["object", "split", "label", "image", "mask"]
    for category in demo.VISA:
        own = [row for row in rows if row["object"] == category]
        counts = {
            key: sum((row["split"], row["label"]) == key for row in own)
            for key in (("train", "normal"), ("test", "normal"), ("test", "anomaly"))
        }
        assert list(counts.values()) == [2 * NORMAL, 2 * NORMAL, 2 * DEFECTIVE]
        assert len(own) == 4 * NORMAL + 2 * DEFECTIVE
        normal = sorted(row["image"] for row in own if row["label"] == "normal")
        anomaly = sorted(row["image"] for row in own if row["label"] == "anomaly")
        assert normal == [f"{category}/Data/Images/Normal/{index:04d}.JPG" for index in range(4 * NORMAL)]
        names = [f"{index:03d}.JPG" for index in range(2 * DEFECTIVE)]
        assert anomaly == [f"{category}/Data/Images/Anomaly/{name}" for name in names]
        for row in own:
            mask = f"{category}/Data/Masks/Anomaly/{Path(row['image']).stem}.png"
            assert row["mask"] == (mask if row["label"] == "anomaly" else "")
    listed = {row[column] for row in rows for column in ("image", "mask")} - {""}
    assert {path.relative_to(root).as_posix() for path in root.glob("*/Data/**/*.*")} == listed


def test_masks_hold_the_right_values_and_fit_their_pictures(made):
    masks = dict.fromkeys(made.glob("mvtec/*/ground_truth/*/*_mask.png"), 255)
    masks |= dict.fromkeys(made.glob("visa/*/Data/Masks/Anomaly/*.png"), 1)
    assert len(masks) == DEFECTIVE * (len(demo.MVTEC) + 2 * len(demo.VISA))
    for path, value in masks.items():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (demo.SIDE, demo.SIDE) and set(np.unique(mask)) == {0, value}


@pytest.mark.parametrize("category", [*demo.MVTEC, *demo.VISA])
def test_the_mask_is_where_the_image_changed(category):
    plain = demo.normal_image(category, "test", 5, 1000).astype(float)
    image, mask = demo.defective_image(category, 5, 0)
    change = np.abs(image - plain).mean(2)
    assert demo.CLEAR_PIXELS <= (change[mask] > demo.CLEAR).sum() and mask.sum() < 0.2 * mask.size
    assert change[mask].all() and change[~mask].max() < demo.CLEAR


def test_good_pieces_differ_from_one_another():
    for category in [*demo.MVTEC, *demo.VISA]:
        first, second = (demo.normal_image(category, "train", 0, number).astype(float) for number in range(2))
        assert first.shape == (demo.SIDE, demo.SIDE, 3) and 1 < np.abs(first - second).mean() < 60, category


def test_same_seed_same_bytes_other_seed_other_pictures(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        demo.write_demo(tmp_path / name, seed=seed, normal=1, defective=1)
    first, again, other = (digest(tmp_path / name) for name in "abc")
    assert first == again
    pictures = [name for name in first if name.endswith((".png", ".JPG"))]
    assert pictures and all(first[name] != other[name] for name in pictures)


def test_finished_demo_is_kept_and_another_one_replaces_it(tmp_path):
    folder = tmp_path / "demo"
    assert demo.write_demo(folder, seed=0, normal=1, defective=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not demo.write_demo(folder, seed=0, normal=1, defective=1)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert demo.write_demo(folder, seed=1, normal=1, defective=1)
    assert json.loads((folder / demo.MARKER).read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_interrupted_run_is_not_taken_for_a_finished_one(tmp_path, monkeypatch):
    folder = tmp_path / "demo"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(demo, "write_visa", interrupt)
        with pytest.raises(KeyboardInterrupt):
            demo.write_demo(folder, seed=0, normal=1, defective=1)
    assert not folder.exists() and not list(tmp_path.iterdir())
    assert demo.write_demo(folder, seed=0, normal=1, defective=1)
    kept = digest(folder)
    with monkeypatch.context() as patched:
        patched.setattr(demo, "write_visa", interrupt)
        with pytest.raises(KeyboardInterrupt):
            demo.write_demo(folder, seed=1, normal=1, defective=1)
    assert digest(folder) == kept


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "photographs.txt").write_text("mine")
    assert demo.main([str(tmp_path)]) == 2
    assert demo.MARKER in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photographs.txt"]


@pytest.mark.slow
def test_runs_as_a_script_from_its_own_folder():
    script = Path(demo.__file__)
    done = subprocess.run(
        [sys.executable, script.name, "--help"], cwd=script.parent, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--seed" in done.stdout
