"""meta.json, the draw of references, the check and the table of a catalogue."""

import csv
import json
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import mvtec, visa
from data.catalogue import describe_catalogue, open_catalogue
from data.check import check_catalogue, find_duplicates
from data.meta import read_meta, write_meta
from data.records import Catalogue, Record, draw_references, with_masks, without_references
from tests.support.constants import SHARED
from utils.errors import DataError
from utils.text import natural_key, shown


def records(count: int, category: str = "cup") -> list[Record]:
    return [Record(f"{category}/train/good/{i}.png", "", category, "good", False) for i in range(count)]


def entry(**changes) -> dict:
    return {
        "img_path": "cup/test/hole/1.png",
        "mask_path": "cup/ground_truth/hole/1_mask.png",
        "cls_name": "cup",
        "specie_name": "hole",
        "anomaly": 1,
    } | changes


def save_meta(folder: Path, content: object) -> Path:
    file = folder / "meta.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


# Drawing ----------------------------------------------------------------------------------------------------


def test_same_seed_draws_the_same_distinct_references_in_any_order():
    pool = records(30)
    drawn = draw_references(pool, 10, 14, "cup")
    assert len(set(drawn)) == 10 and set(drawn) <= set(pool)
    random.Random(0).shuffle(pool)
    assert draw_references(pool, 10, 14, "cup") == drawn
    assert draw_references(pool, 4, 14, "cup") == drawn[:4]
    assert draw_references(pool, 10, 15, "cup") != drawn


def test_draw_is_the_same_on_every_machine():
    drawn = [r.image_path for r in draw_references(records(30), 3, 14, "cup")]
    assert drawn == ["cup/train/good/15.png", "cup/train/good/11.png", "cup/train/good/17.png"]


def test_categories_draw_apart_from_each_other():
    drawn = {
        tuple(r.image_path.rsplit("/", 1)[1] for r in draw_references(records(50, c), 5, 1, c))
        for c in "abcd"
    }
    assert len(drawn) == 4


def test_draw_takes_normal_images_of_the_category_only():
    pool = records(3) + records(9, "plate") + [Record("cup/train/hole/0.png", "", "cup", "hole", True)]
    assert sorted(draw_references(pool, 3, 0, "cup"), key=lambda r: r.image_path) == records(3)
    assert draw_references(pool, 0, 0, "cup") == []
    for k in (4, -1):
        with pytest.raises(DataError, match="--k-shot"):
            draw_references(pool, k, 0, "cup")


def test_references_are_left_out_and_maskless_defects_can_be():
    pool = records(5)
    assert without_references(pool, pool[1:3]) == [pool[0], *pool[3:]]
    bare = Record("cup/hole/0.png", "", "cup", "hole", True)
    assert with_masks([*pool, bare]) == pool


def test_natural_order():
    ordered = ["9", "10", "a09", "a9", "a10b2", "a10b11", "b"]
    assert sorted(reversed(ordered), key=natural_key) == ordered
    assert natural_key("a9") != natural_key("a09")
    assert natural_key("9" * 5000) > natural_key("1" * 5000)


# meta.json --------------------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_characters="/\0\\:"), min_size=1, max_size=12).filter(
    lambda n: n.strip(".")
)


@st.composite
def catalogues(draw) -> Catalogue:
    splits = []
    for split in ("train", "test"):
        part = {}
        for category in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
            found = []
            for name, defect in draw(st.dictionaries(names, names, max_size=4)).items():
                anomalous = draw(st.booleans())
                mask = f"{category}/masks/{name}" if anomalous and draw(st.booleans()) else ""
                found.append(Record(f"{category}/{split}/{name}", mask, category, defect, anomalous))
            part[category] = sorted(found, key=lambda r: natural_key(r.image_path))
        splits.append(part)
    return Catalogue(Path("root"), *splits)


@settings(max_examples=60, deadline=None)
@given(catalogues())
def test_meta_keeps_every_catalogue(catalogue):
    with tempfile.TemporaryDirectory() as folder:
        write_meta(catalogue, Path(folder) / "meta.json")
        assert read_meta(Path(folder) / "meta.json", "root") == catalogue
        assert os.listdir(folder) == ["meta.json"]


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
json_values = leaves | st.lists(leaves, max_size=3) | st.dictionaries(st.text(max_size=8), leaves, max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        ["img_path", "mask_path", "cls_name", "specie_name", "anomaly", "entry", "category", "split"]
    ),
    json_values,
)
def test_any_json_is_read_safely_or_refused_in_one_line(place, value):
    content = {"train": {}, "test": {"cup": [entry()]}}
    if place == "entry":
        content["test"]["cup"] = [value]
    elif place == "category":
        content["test"]["cup"] = value
    elif place == "split":
        content["test"] = value
    else:
        content["test"]["cup"] = [entry(**{place: value})]
    with tempfile.TemporaryDirectory() as folder:
        try:
            catalogue = read_meta(save_meta(Path(folder), content), folder)
        except DataError as error:
            assert "\n" not in str(error) and "meta.json" in str(error)
            return
    for record in (r for part in catalogue.test.values() for r in part):
        for path in (record.image_path, record.mask_path):
            inside = os.path.normpath(os.path.join("/any/folder", path))
            assert inside == "/any/folder" and path == "" or inside.startswith("/any/folder/")


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "not valid JSON"),
        ("{'train': 1}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ([], "exactly the keys"),
        ({"train": {}}, "exactly the keys"),
        ({"train": {}, "test": {}, "valid": {}}, "exactly the keys"),
        ({"train": {}, "test": {}}, "must map categories"),
        ({"train": [], "test": {"cup": []}}, "must map categories"),
        ({"train": {}, "test": {"cup": {}}}, "not a list"),
        ({"train": {}, "test": {"../cup": []}}, "cannot name a category"),
        ({"train": {}, "test": {"..": []}}, "cannot name a category"),
        ({"train": {}, "test": {"cup": ["x.png"]}}, "exactly the keys"),
        ({"train": {}, "test": {"cup": [entry(extra=1)]}}, "exactly the keys"),
        ({"train": {}, "test": {"cup": [entry(anomaly=True)]}}, "0 or 1"),
        ({"train": {}, "test": {"cup": [entry(anomaly=2)]}}, "0 or 1"),
        ({"train": {}, "test": {"cup": [entry(anomaly="1")]}}, "0 or 1"),
        ({"train": {}, "test": {"cup": [entry(cls_name="plate")]}}, "differs from the category"),
        ({"train": {}, "test": {"cup": [entry(specie_name="a/b")]}}, "cannot name"),
        ({"train": {}, "test": {"cup": [entry(specie_name=None)]}}, "cannot name"),
        ({"train": {}, "test": {"cup": [entry(img_path="/etc/passwd")]}}, "absolute path"),
        ({"train": {}, "test": {"cup": [entry(img_path="C:\\pictures\\1.png")]}}, "absolute path"),
        ({"train": {}, "test": {"cup": [entry(mask_path="/etc/passwd")]}}, "absolute path"),
        ({"train": {}, "test": {"cup": [entry(img_path="../1.png")]}}, "stay inside"),
        ({"train": {}, "test": {"cup": [entry(mask_path="cup/../../1.png")]}}, "stay inside"),
        ({"train": {}, "test": {"cup": [entry(img_path=".")]}}, "stay inside"),
        ({"train": {}, "test": {"cup": [entry(img_path="")]}}, "path is missing"),
        ({"train": {}, "test": {"cup": [entry(img_path="a\0b")]}}, "path is missing"),
        ({"train": {}, "test": {"cup": [entry(img_path=7)]}}, "path is missing"),
        ({"train": {}, "test": {"cup": [entry(mask_path=None)]}}, "path is missing"),
        ({"train": {}, "test": {"cup": [entry(), entry()]}}, "twice"),
    ],
)
def test_bad_meta_is_refused(tmp_path, content, said):
    with pytest.raises(DataError, match=said) as caught:
        read_meta(save_meta(tmp_path, content), tmp_path)
    assert "meta.json" in str(caught.value) and "\n" not in str(caught.value)


def test_published_meta_is_read(tmp_path):
    """VisA's published script leaves specie_name empty; a good image's mask is never read."""
    content = {
        "train": {"cup": [entry(img_path="a.png", mask_path="", specie_name="", anomaly=0)]},
        "test": {"cup": [entry(img_path="b10.png", specie_name=""), entry(img_path="b9.png", anomaly=0)]},
    }
    catalogue = read_meta(save_meta(tmp_path, content), tmp_path)
    assert catalogue.train["cup"] == [Record("a.png", "", "cup", "good", False)]
    assert catalogue.test["cup"] == [
        Record("b9.png", "", "cup", "hole", False),
        Record("b10.png", entry()["mask_path"], "cup", "bad", True),
    ]


def test_meta_has_the_published_format(tmp_path):
    record = Record("cup/test/hole/1.png", "cup/ground_truth/hole/1_mask.png", "cup", "hole", True)
    write_meta(Catalogue(tmp_path, {"cup": []}, {"cup": [record]}), tmp_path / "meta.json")
    assert json.loads((tmp_path / "meta.json").read_text()) == {
        "train": {"cup": []},
        "test": {"cup": [entry()]},
    }


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    catalogue = Catalogue(tmp_path, {"cup": records(2)}, {"cup": []})
    (tmp_path / "meta.json").write_text("old")

    def disk_full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(DataError, match="No space left.*--meta"):
        write_meta(catalogue, tmp_path / "meta.json")
    assert (tmp_path / "meta.json").read_text() == "old" and os.listdir(tmp_path) == ["meta.json"]
    with pytest.raises(DataError, match="nowhere"):
        write_meta(catalogue, tmp_path / "nowhere" / "meta.json")


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
    for arguments, said in [
        (("mvtec", root, tmp_path / "none.json"), "none.json"),
        (("mvtec", tmp_path / "no"), "--data-path"),
        (("coco", root), "--dataset"),
    ]:
        with pytest.raises(DataError, match=said):
            open_catalogue(*arguments)


# Checks and table -------------------------------------------------------------------------------------------


def broken_catalogue(root: Path) -> Catalogue:
    """One image of every fault, in a category of its own kind of defect."""
    root.mkdir(exist_ok=True)
    for name in ("fine", "no_mask", "lost_mask", "empty", "size"):
        Image.new("L", (8, 6)).save(root / f"{name}.png")
    (root / "text.png").write_text("not an image")
    Image.new("L", (8, 6)).save(root / "empty_mask.png")
    Image.new("L", (8, 6), 1).save(root / "fine_mask.png")
    Image.new("L", (6, 8), 1).save(root / "size_mask.png")
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
        "empty_mask.png: empty mask",
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
    assert "above the limit" in check_catalogue(catalogue, decode=False, max_pixels=100)[0]


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


def test_duplicates_between_references_and_test(tmp_path):
    for name, value in (("a", 1), ("b", 2), ("copy of a", 1)):
        Image.new("L", (4, 4), value).save(tmp_path / f"{name}.png")
    a, b, copy, gone = (Record(f"{n}.png", "", "cup", "good", False) for n in ("a", "b", "copy of a", "gone"))
    found = find_duplicates(tmp_path, [a], [b, copy, gone])
    assert len(found) == 1 and "copy of a.png" in found[0]
    assert find_duplicates(tmp_path, [gone], [a, b]) == []


def test_shown_names_are_one_printable_line():
    assert shown("caf\u00e9 'x'.png") == "caf\u00e9 'x'.png"
    assert shown("a\nb\udcff\x1b[31m.png") == "a\\nb\\udcff\\x1b[31m.png"


def test_worker_message_gives_the_sentence_back():
    wrapped = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File\n"
        "data.records.DataError: a DataError: b.png: is missing\n"
    )
    assert str(DataError(wrapped)) == "a DataError: b.png: is missing"
    assert str(DataError("Caught napping.png: is missing")) == "Caught napping.png: is missing"
