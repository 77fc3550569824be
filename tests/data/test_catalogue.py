"""Where a catalogue comes from, and its table."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from data import mvtec, visa
from data.catalogue import describe_catalogue, open_catalogue
from data.meta import write_meta
from data.records import Catalogue, Record
from tests.support.constants import SHARED
from tests.support.records import records
from utils.errors import DataError


def test_open_catalogue_prefers_the_file_named_then_the_root_s_then_scans(tmp_path):
    for name in ("train/good/0.png", "test/good/1.png"):
        (tmp_path / "root/cup" / name).parent.mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "root/cup" / name)
    root = tmp_path / "root"
    assert open_catalogue("mvtec", root).train["cup"][0].image_path == "cup/train/good/0.png"
    write_meta(Catalogue(root, {"inside": []}, {}), root / "meta.json")
    write_meta(Catalogue(root, {"named": []}, {}), tmp_path / "other.json")
    assert open_catalogue("mvtec", root).categories == ["inside"]
    assert open_catalogue("mvtec", root, tmp_path / "other.json").categories == ["named"]
    for arguments, reported in [
        (("mvtec", root, tmp_path / "none.json"), "none.json"),
        (("mvtec", tmp_path / "no"), "--data-path"),
        (("coco", root), "--dataset"),
    ]:
        with pytest.raises(DataError, match=reported):
            open_catalogue(*arguments)


def test_table_counts_against_the_official_numbers():
    def part(split, defect, count, anomalous=False):
        return [
            Record(f"{split}/{defect}/{i}.png", "m.png" if anomalous else "", "toothbrush", defect, anomalous)
            for i in range(count)
        ]

    catalogue = Catalogue(
        Path("root"),
        {"toothbrush": part("train", "good", 60), "cup": records(2)},
        {"toothbrush": part("test", "good", 7) + part("test", "bent", 30, True), "cup": []},
    )
    rows = [line.split() for line in describe_catalogue(catalogue, "mvtec").splitlines()]
    assert ["toothbrush", "train", "good", "60", "-", "complete"] in rows
    assert ["toothbrush", "test", "good", "7", "-", "7", "of", "12"] in rows
    assert ["toothbrush", "test", "bent", "30", "30", "complete"] in rows
    assert ["cup", "train", "good", "2", "-", "not", "an", "official", "category"] in rows
    assert rows[-1][:4] == ["1", "of", "15", "official"]
    assert "official" not in describe_catalogue(catalogue, "folder")


def test_official_counts():
    assert [sum(c) for c in zip(*mvtec.OFFICIAL_COUNTS.values())] == [3629, 467, 1258]
    assert [sum(c) for c in zip(*visa.OFFICIAL_COUNTS.values())] == [8659, 962, 1200]
    file = SHARED / "data/visa_official_split/1cls.csv"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    with open(file, newline="") as stream:
        rows = [(row["object"], row["split"], row["label"]) for row in csv.DictReader(stream)]
    kinds = (("train", "normal"), ("test", "normal"), ("test", "anomaly"))
    categories = {category for category, _, _ in rows}
    assert visa.OFFICIAL_COUNTS == {c: tuple(rows.count((c, *kind)) for kind in kinds) for c in categories}
