"""The drawn demo: layout to the letter, same seed same bytes, masks that are the visible change, all or
nothing."""

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

NORMAL, DEFECTIVE = 1, 7  # a small demo: every kind of defect at least once
PRODUCTS = {**demo.MVTEC, **demo.VISA}
KINDS = [(category, kind) for category, product in PRODUCTS.items() for kind in product.defects]


def digest(folder: Path) -> dict[str, str]:
    """Every file below `folder` with the hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    assert demo.write_demo(folder, seed=3, normal=NORMAL, defective=DEFECTIVE)
    return folder


def test_mvtec_layout_is_exact(drawn):
    root = drawn / "mvtec"
    assert sorted(path.name for path in root.iterdir()) == sorted(demo.MVTEC)
    for category, product in demo.MVTEC.items():
        numbered = [f"{index:03d}.png" for index in range(NORMAL)]
        assert sorted(path.name for path in (root / category).iterdir()) == ["ground_truth", "test", "train"]
        assert sorted(path.name for path in (root / category / "train").iterdir()) == ["good"]
        for split in ("train", "test"):
            assert sorted(path.name for path in (root / category / split / "good").iterdir()) == numbered
        kinds = sorted(path.name for path in (root / category / "test").iterdir() if path.name != "good")
        assert kinds == sorted(product.defects)
        assert sorted(path.name for path in (root / category / "ground_truth").iterdir()) == kinds
        images = 0
        for kind in kinds:
            names = sorted(path.stem for path in (root / category / "test" / kind).iterdir())
            assert names == [f"{index:03d}" for index in range(len(names))]
            masks = sorted(path.name for path in (root / category / "ground_truth" / kind).iterdir())
            assert masks == [f"{name}_mask.png" for name in names]
            images += len(names)
        assert images == DEFECTIVE


def test_visa_layout_is_exact(drawn):
    root = drawn / "visa"
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
        assert list(counts.values()) == [NORMAL, NORMAL, DEFECTIVE] and len(own) == 2 * NORMAL + DEFECTIVE
        normal = sorted(row["image"] for row in own if row["label"] == "normal")
        anomaly = sorted(row["image"] for row in own if row["label"] == "anomaly")
        assert normal == [f"{category}/Data/Images/Normal/{index:04d}.JPG" for index in range(2 * NORMAL)]
        assert anomaly == [f"{category}/Data/Images/Anomaly/{index:03d}.JPG" for index in range(DEFECTIVE)]
        for row in own:
            mask = f"{category}/Data/Masks/Anomaly/{Path(row['image']).stem}.png"
            assert row["mask"] == (mask if row["label"] == "anomaly" else "")
    listed = {row[column] for row in rows for column in ("image", "mask")} - {""}
    assert {path.relative_to(root).as_posix() for path in root.glob("*/Data/**/*.*")} == listed


def test_masks_hold_the_right_values_and_fit_their_pictures(drawn):
    for mask_path in drawn.glob("mvtec/*/ground_truth/*/*_mask.png"):
        category = mask_path.parts[-4]
        mask = cv2.imread(str(mask_path), cv2.IMREAD_UNCHANGED)
        assert mask.shape == demo.MVTEC[category].shape and set(np.unique(mask)) == {0, 255}
    for category, product in demo.VISA.items():
        seen = set()
        for mask_path in (drawn / "visa" / category / "Data/Masks/Anomaly").iterdir():
            mask = cv2.imread(str(mask_path), cv2.IMREAD_UNCHANGED)
            image = cv2.imread(
                str(drawn / "visa" / category / "Data/Images/Anomaly" / f"{mask_path.stem}.JPG")
            )
            assert mask.shape == product.shape == image.shape[:2]
            zero, number = np.unique(mask)
            assert zero == 0
            seen.add(int(number))
        assert seen == set(range(1, min(len(product.defects), DEFECTIVE) + 1))


@pytest.mark.parametrize("category, kind", KINDS)
def test_mask_is_where_the_picture_changed(category, kind):
    """Drawn with and without its defect, a piece differs clearly inside the mask and by no more than noise
    outside."""
    product, name = PRODUCTS[category], f"{category}/check/{kind}"
    plain = demo.draw_normal(product, 5, name).astype(float)
    picture, mask = demo.draw_defective(product, 5, name, kind, 1.1)
    change = np.abs(picture - plain).max(2) / 255
    assert 40 <= mask.sum() < 0.2 * mask.size
    assert np.mean(change[mask] > demo.VISIBLE) > 0.5
    near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) > 0
    assert np.mean(change[~near] > 1.5 * demo.VISIBLE) < 1e-3


def test_good_pieces_differ_from_one_another():
    for category, product in PRODUCTS.items():
        first, second = (
            demo.draw_normal(product, 0, f"{category}/train/{index}").astype(float) for index in range(2)
        )
        assert first.shape == (*product.shape, 3) and 1 < np.abs(first - second).mean() < 60, category


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
