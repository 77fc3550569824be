"""meta.json: what is written is read back, and what is no such file is refused."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.records import Catalogue, Record, read_meta, write_meta
from tests.support.records import records
from utils.errors import DataError
from utils.text import natural_key


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
    "content, reported",
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
        ({"train": {}, "test": {"cup": [entry(img_path="/etc/passwd")]}}, "is absolute"),
        ({"train": {}, "test": {"cup": [entry(img_path="C:\\pictures\\1.png")]}}, "is absolute"),
        ({"train": {}, "test": {"cup": [entry(mask_path="/etc/passwd")]}}, "is absolute"),
        ({"train": {}, "test": {"cup": [entry(img_path="../1.png")]}}, "leaves the dataset's root"),
        ({"train": {}, "test": {"cup": [entry(mask_path="cup/../../1.png")]}}, "leaves the dataset's root"),
        ({"train": {}, "test": {"cup": [entry(img_path=".")]}}, "leaves the dataset's root"),
        ({"train": {}, "test": {"cup": [entry(img_path="")]}}, "path is missing"),
        ({"train": {}, "test": {"cup": [entry(img_path="a\0b")]}}, "path is missing"),
        ({"train": {}, "test": {"cup": [entry(img_path=7)]}}, "path is missing"),
        ({"train": {}, "test": {"cup": [entry(mask_path=None)]}}, "path is missing"),
        ({"train": {}, "test": {"cup": [entry(), entry()]}}, "twice"),
    ],
)
def test_bad_meta_is_refused(tmp_path, content, reported):
    with pytest.raises(DataError, match=reported) as caught:
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
