"""Where a catalogue comes from, and its table."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from data import mvtec, visa
from data.catalogue import check_catalogue, describe_catalogue, find_duplicates, open_catalogue
from data.records import Catalogue, Record, write_meta
from tests.support.constants import SHARED
from tests.support.records import records
from utils.errors import DataError
from utils.limits import allow_pixels


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


def broken_catalogue(root: Path) -> Catalogue:
    """One image of every fault, in a category of its own kind of defect."""
    root.mkdir(exist_ok=True)
    for name in ("fine", "no_mask", "lost_mask", "empty", "size"):
        Image.new("L", (8, 6)).save(root / f"{name}.png")
    (root / "text.png").write_text("not an image")
    Image.new("L", (8, 6)).save(root / "empty_mask.png")
    for name, size in (("fine", (8, 6)), ("size", (6, 8))):
        mask = Image.new("L", size)
        mask.putpixel((2, 2), 1)
        mask.save(root / f"{name}_mask.png")
    masks = {
        "fine": "fine_mask.png",
        "lost_mask": "lost.png",
        "empty": "empty_mask.png",
        "size": "size_mask.png",
    }
    test = [
        Record(f"{n}.png", masks.get(n, ""), "cup", n, n != "text" and n != "gone")
        for n in ("fine", "no_mask", "lost_mask", "empty", "size", "text", "gone")
    ]
    return Catalogue(root, {"cup": [], "saucer": [test[0]]}, {"cup": test, "saucer": []})


@pytest.mark.parametrize("decode", [True, False])
def test_check_names_every_problem_and_no_other(tmp_path, decode):
    problems = check_catalogue(broken_catalogue(tmp_path), decode)
    wanted = [
        "category cup: no normal training image",
        "category saucer: no normal training image",
        "category saucer: no test image",
        "no_mask.png: anomalous image without a mask",
        "lost.png: is missing",
        "empty_mask.png: the mask of a defect is empty",
        "size_mask.png: mask of 6x8 px for an image of 8x6 px",
        "text.png: is not an image",
        "gone.png: is missing",
    ]
    assert len(problems) == len(wanted)
    assert all(text in problem for text, problem in zip(wanted, problems)), problems
    assert not any(
        "without a mask" in p for p in check_catalogue(broken_catalogue(tmp_path), decode, need_masks=False)
    )


def test_only_decoding_finds_damage_behind_the_header(tmp_path):
    Image.radial_gradient("L").save(tmp_path / "0.png")
    damaged = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(damaged[: len(damaged) // 2])
    record = Record("0.png", "", "cup", "good", False)
    catalogue = Catalogue(tmp_path, {"cup": [record]}, {"cup": [record]})
    assert check_catalogue(catalogue, decode=False) == []
    assert len(check_catalogue(catalogue)) == 1
    allow_pixels(100)
    assert "above the limit" in check_catalogue(catalogue, decode=False)[0]


def test_duplicates_between_references_and_test(tmp_path):
    for name, value in (("a", 1), ("b", 2), ("copy of a", 1)):
        Image.new("L", (4, 4), value).save(tmp_path / f"{name}.png")
    a, b, copy, gone = (Record(f"{n}.png", "", "cup", "good", False) for n in ("a", "b", "copy of a", "gone"))
    found = find_duplicates(tmp_path, [a], [b, copy, gone])
    assert len(found) == 1 and "copy of a.png" in found[0]
    assert find_duplicates(tmp_path, [gone], [a, b]) == []
