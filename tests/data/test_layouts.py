"""Scanning MVTec AD's and VisA's layouts, and the scripts that write meta.json."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import mvtec, visa
from data.catalogue import open_catalogue, run_script
from data.dataset import InspectionDataset
from data.masks import open_mask
from data.records import Record, read_meta
from tests.support.constants import ROOT, SHARED
from tests.support.photographs import save
from utils.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = SHARED / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not here")


SPOT = np.zeros((10, 12), np.uint8)  # a mask
SPOT[2:4, 3:6] = 255


def make_mvtec(root: Path, category: str = "cup") -> Path:
    """Three training images and one good test image, three dents whose masks sort otherwise, one scratch."""
    for name in (
        "train/good/0.png",
        "train/good/10.png",
        "train/good/9.png",
        "test/good/0.png",
        "test/dent/2.png",
        "test/dent/10.png",
        "test/dent/x.JPG",
        "test/scratch/0.png",
        "ground_truth/dent/10_mask.png",
        "ground_truth/dent/2_mask.png",
        "ground_truth/dent/x_mask.bmp",
        "ground_truth/scratch/0_mask.png",
    ):
        save(root / category / name, SPOT if "ground_truth" in name else 100)
    return root


# Scanning ---------------------------------------------------------------------------------------------------


def counts(records: list[Record]) -> dict[str, int]:
    return {
        defect: sum(r.defect == defect for r in records) for defect in sorted({r.defect for r in records})
    }


@real
def test_real_mvtec_folders():
    catalogue = mvtec.scan(DATA / "mvtec")
    assert catalogue.categories == ["bottle", "tire"]
    assert counts(catalogue.train["bottle"]) == {"good": 16} and counts(catalogue.train["tire"]) == {
        "good": 12
    }
    assert counts(catalogue.test["bottle"]) == {
        "broken_large": 20,
        "broken_small": 22,
        "contamination": 21,
        "good": 20,
    }
    assert counts(catalogue.test["tire"]) == {
        "combined": 5,
        "contamination": 14,
        "cut": 14,
        "good": 15,
        "hole": 14,
    }
    for record in catalogue.test["bottle"] + catalogue.test["tire"]:
        category, _, defect, name = record.image_path.split("/")
        wanted = f"{category}/ground_truth/{defect}/{name[:-4]}_mask.png" if defect != "good" else ""
        assert record.mask_path == wanted and (record.defect, record.anomalous) == (defect, defect != "good")
        assert not wanted or (DATA / "mvtec" / wanted).is_file()


@real
def test_real_visa_folder():
    catalogue = visa.scan(DATA / "visa")
    assert catalogue.categories == ["magnetic_tile"]
    assert counts(catalogue.train["magnetic_tile"]) == {"good": 40}
    assert counts(catalogue.test["magnetic_tile"]) == {"bad": 118, "good": 50}
    for record in catalogue.test["magnetic_tile"]:
        stem = Path(record.image_path).stem
        assert record.mask_path == (
            f"magnetic_tile/Data/Masks/Anomaly/{stem}.png" if record.anomalous else ""
        )


@real
def test_small_class_numbers_in_real_masks_are_defect():
    anomalous = [record for record in visa.scan(DATA / "visa").test["magnetic_tile"] if record.anomalous]
    for record in anomalous[::10]:
        raw = np.array(Image.open(DATA / "visa" / record.mask_path))
        assert 0 < raw.max() <= 5
        assert (np.array(open_mask(DATA / "visa" / record.mask_path)) == (raw > 0) * 255).all()


@real
def test_official_visa_split_is_read_for_the_categories_that_are_there(tmp_path):
    save(tmp_path / "candle/Data/Images/Normal/0836.JPG")
    save(tmp_path / "candle/Data/Images/Anomaly/000.JPG")
    catalogue = visa.scan(tmp_path, DATA / "visa_official_split/1cls.csv")
    mask = "candle/Data/Masks/Anomaly/000.png"
    assert catalogue.train == {
        "candle": [Record("candle/Data/Images/Normal/0836.JPG", "", "candle", "good", False)]
    }
    assert catalogue.test == {
        "candle": [Record("candle/Data/Images/Anomaly/000.JPG", mask, "candle", "bad", True)]
    }


def test_masks_are_paired_by_name_not_by_order(tmp_path):
    make_mvtec(tmp_path)
    (tmp_path / "cup/ground_truth/dent/2_mask.png").unlink()
    masks = {
        Path(r.image_path).name: r.mask_path for r in mvtec.scan(tmp_path).test["cup"] if r.defect == "dent"
    }
    folder = "cup/ground_truth/dent"
    assert masks == {"2.png": "", "10.png": f"{folder}/10_mask.png", "x.JPG": f"{folder}/x_mask.bmp"}


def test_scan_order_is_natural_and_leaves_out_what_is_no_image(tmp_path):
    make_mvtec(tmp_path)
    (tmp_path / "cup/train/good/Thumbs.db").touch()
    (tmp_path / "cup/train/good/._9.png").touch()
    (tmp_path / "notes").mkdir()
    catalogue = mvtec.scan(tmp_path)
    assert [Path(r.image_path).name for r in catalogue.train["cup"]] == ["0.png", "9.png", "10.png"]
    assert catalogue.categories == ["cup"]


def test_unusual_names_survive_the_way_through_meta_json(tmp_path):
    odd = [
        "with space",
        "qu'o\"te",
        "line\nbreak",
        "caf\u00e9 \u7f3a\u9677",
        "<img src=x onerror=alert(1)>",
        "=1+1",
        os.fsdecode(b"latin\xe9"),
    ]
    root = tmp_path / odd[3]
    for name in odd:
        save(root / "cup" / "train/good" / f"{name}.png")
        save(root / "cup" / "test" / name / f"{name}.png")
        save(root / "cup" / "ground_truth" / name / f"{name}_mask.png")
    assert run_script(mvtec.LAYOUT, root, "", []) == 0
    catalogue = open_catalogue("mvtec", root)
    assert catalogue == mvtec.scan(root) and len(catalogue.test["cup"]) == len(odd)
    assert all((root / path).is_file() for r in catalogue.test["cup"] for path in (r.image_path, r.mask_path))
    items = [InspectionDataset(root, catalogue.test["cup"], 14)[i] for i in range(len(odd))]
    assert all(item["mask"].all() for item in items)


@pytest.mark.parametrize("layout", [[], ["cup/images/0.png"]])
def test_mvtec_says_what_root_should_be(tmp_path, layout):
    for name in layout:
        save(tmp_path / name)
    with pytest.raises(DataError, match="holds no folder good .*, no train and test"):
        mvtec.scan(tmp_path)
    with pytest.raises(DataError, match="cannot be listed"):
        mvtec.scan(tmp_path / "nowhere")


def test_one_category_of_mvtec_is_a_dataset_and_references_are_drawn_from_train_alone(tmp_path):
    for name in ("cup/train/good/0.png", "cup/test/good/1.png", "nut/test/good/0.png"):
        save(tmp_path / name)
    one = mvtec.scan(tmp_path / "cup")
    assert [record.image_path for record in one.train["cup"]] == ["train/good/0.png"]
    both = mvtec.scan(tmp_path)
    assert [len(records) for records in both.train.values()] == [1, 0]
    assert [len(records) for records in both.test.values()] == [1, 1]


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    make_mvtec(tmp_path)
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("dent"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match="dent: cannot be listed .Permission denied"):
        mvtec.scan(tmp_path)


HEADER = "object,split,label,image,mask\n"


@pytest.mark.parametrize(
    "content, reported",
    [
        ("", "has no column object, split, label, image, mask"),
        ("object,split,label,image\ncup,train,normal,0.png\n", "has no column mask"),
        ("cup,train,normal,0.png,\n", "has no column"),
        (HEADER + "cup,train,normal,0.png\n", "line 2: has another number of fields"),
        (HEADER + "cup,train,normal,0.png,,\n", "line 2: has another number of fields"),
        (HEADER + "cup,valid,normal,0.png,\n", "line 2: split is one"),
        (HEADER + "cup,train,good,0.png,\n", "line 2: split is one"),
        (HEADER + "cup,train,normal,/etc/passwd,\n", "line 2: .*is absolute"),
        (HEADER + "cup,test,anomaly,0.png,../0.png\n", "line 2: .*leaves the dataset's root"),
        (HEADER + "../cup,train,normal,0.png,\n", "line 2: .*cannot name"),
        (HEADER + "cup,train,normal,,\n", "line 2: a path is missing"),
        (HEADER + "cup,train,normal,0.png,\ncup,train,normal,0.png,\n", "line 3: lists 0.png twice"),
        (HEADER + "cup,train,normal,1.png,\n", "holds no image of"),
        (HEADER, "holds no image of"),
        (b"\xff\xfe\x00o\x00", "no CSV file"),
        (HEADER + f"cup,train,normal,{'x' * 200_000},\n", "no CSV file"),
    ],
)
def test_bad_split_files_are_refused(tmp_path, content, reported):
    save(tmp_path / "0.png")
    (tmp_path / "1cls.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=reported) as caught:
        visa.scan(tmp_path, tmp_path / "1cls.csv")
    assert "1cls.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_split_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="--split-csv"):
        visa.scan(tmp_path)


def test_split_columns_may_stand_in_any_order(tmp_path):
    save(tmp_path / "0.png")
    content = b"\xef\xbb\xbfmask,note,label,image,split,object\r\n,hm,normal,0.png,train,cup\r\n"
    (tmp_path / "1cls.csv").write_bytes(content)
    assert visa.scan(tmp_path, tmp_path / "1cls.csv").train == {
        "cup": [Record("0.png", "", "cup", "good", False)]
    }


# Scripts ----------------------------------------------------------------------------------------------------


def test_script_writes_meta_and_names_the_problems(tmp_path, capsys):
    make_mvtec(tmp_path)
    (tmp_path / "cup/ground_truth/dent/2_mask.png").unlink()
    save(tmp_path / "cup/ground_truth/scratch/0_mask.png", 0)
    (tmp_path / "cup/train/good/9.png").write_text("text")
    assert run_script(mvtec.LAYOUT, tmp_path / "unused", "", [str(tmp_path)]) == 0
    assert read_meta(tmp_path / "meta.json", tmp_path) == mvtec.scan(tmp_path)
    reported = capsys.readouterr().out
    assert "3 problems" in reported and "not an official category" in reported
    for problem in (
        "9.png: is not an image",
        "2.png: anomalous image without a mask",
        "0_mask.png: the mask of a defect is empty",
    ):
        assert problem in reported


def test_script_fails_with_one_sentence(tmp_path, capsys):
    make_mvtec(tmp_path / "root")
    for arguments in (
        [str(tmp_path / "none")],
        [str(tmp_path / "root"), "--meta", str(tmp_path / "none/meta.json")],
    ):
        assert run_script(mvtec.LAYOUT, tmp_path, "", arguments) == 2
        reported = capsys.readouterr()
        assert reported.out == "" and reported.err.count("\n") == 1 and "none" in reported.err
    assert sorted(os.listdir(tmp_path / "root")) == ["cup"]


@pytest.mark.slow
def test_script_runs_inside_the_data_folder_beside_its_dataset(tmp_path):
    for package in ("data", "utils"):
        (tmp_path / package).mkdir()
        for file in (ROOT / package).glob("*.py"):
            shutil.copy(file, tmp_path / package)
    make_mvtec(tmp_path / "data" / "mvtec", "bottle")
    done = subprocess.run([sys.executable, "mvtec.py"], cwd=tmp_path / "data", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 of 209" in done.stdout and "no problems found" in done.stdout
    assert set(json.loads((tmp_path / "data/mvtec/meta.json").read_text())["train"]) == {"bottle"}


@pytest.mark.slow
@real
def test_script_of_visa_runs_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "data/visa.py", DATA / "visa", "--meta", tmp_path / "m.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "no problems found" in done.stdout
    assert read_meta(tmp_path / "m.json", DATA / "visa") == visa.scan(DATA / "visa")


def test_a_split_file_saved_on_windows(tmp_path):
    """Backslashes are taken as / where that file exists, and lead nowhere else."""
    for name in ("a.png", "b.png"):
        (tmp_path / "cup/Data/Images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cup/Data/Images" / name).write_bytes(b"x")
    (tmp_path / "split_csv").mkdir()
    rows = ["cup,train,normal,cup\\Data\\Images\\a.png,", "cup,test,normal,cup\\Data\\Images\\b.png,"]
    (tmp_path / "split_csv/1cls.csv").write_text(HEADER + "\n".join(rows) + "\n")
    found = visa.scan(tmp_path)
    assert [record.image_path for record in found.train["cup"]] == ["cup/Data/Images/a.png"]
    assert [record.image_path for record in found.test["cup"]] == ["cup/Data/Images/b.png"]
    (tmp_path / "split_csv/1cls.csv").write_text(HEADER + rows[0] + "\ncup,test,normal,..\\..\\x.png,\n")
    with pytest.raises(DataError):
        visa.scan(tmp_path)
