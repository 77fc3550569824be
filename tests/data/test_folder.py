"""How a folder of one's own photographs is understood."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import folder, mvtec
from data.catalogue import check_catalogue, open_catalogue, run_script
from data.records import read_meta, sample_references, with_masks, without_references, write_meta
from tests.support.constants import SHARED
from utils.errors import DataError


def build(root: Path, *names: str) -> Path:
    """Files under root: a small image, white on its left, for each name; one that ends in / is an empty
    folder."""
    image = Image.new("L", (6, 5))
    image.paste(255, (0, 0, 2, 5))
    for name in names:
        if name.endswith("/"):
            (root / name).mkdir(parents=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(root / name)
    return root


def seen(records) -> list[tuple[str, str, str]]:
    return [(r.image_path, r.defect if r.anomalous else "", r.mask_path) for r in records]


def notes(root: Path) -> str:
    catalogue = folder.scan(root)
    return "\n".join([*catalogue.rules, *catalogue.unused])


def test_one_category_without_a_split(tmp_path):
    root = build(
        tmp_path / "cups",
        "good/1.png",
        "good/2.jpg",
        "good/10.png",
        "crack/a b.png",
        "stain/1.png",
        "masks/crack/a b.png",
        "ground_truth/stain/1_mask.png",
    )
    catalogue = folder.scan(root)
    assert catalogue.categories == ["cups"]
    assert seen(catalogue.train["cups"]) == [
        ("good/1.png", "", ""),
        ("good/2.jpg", "", ""),
        ("good/10.png", "", ""),
    ]
    assert seen(catalogue.test["cups"]) == [
        ("crack/a b.png", "crack", "masks/crack/a b.png"),
        *seen(catalogue.train["cups"]),
        ("stain/1.png", "stain", "ground_truth/stain/1_mask.png"),
    ]
    assert check_catalogue(catalogue) == []
    assert "one category, cups" in notes(root) and "and are not tested" in notes(root)


def test_drawn_references_are_not_tested(tmp_path):
    root = build(tmp_path / "cups", *(f"good/{i}.png" for i in range(6)), "crack/1.png")
    catalogue = folder.scan(root)
    references = sample_references(catalogue.train["cups"], 2, 0, "cups")
    tested = without_references(catalogue.test["cups"], references)
    assert len(tested) == 5 and not set(tested) & set(references)
    assert {r.image_path for r in tested + references} == {r.image_path for r in catalogue.test["cups"]}


def test_train_and_test_are_kept_apart(tmp_path):
    root = build(
        tmp_path / "cup",
        "train/good/1.png",
        "train/crack/2.png",
        "test/good/3.png",
        "test/crack/4.png",
        "masks/crack/4_mask.tif",
        "holiday/5.png",
    )
    catalogue = folder.scan(root)
    assert seen(catalogue.train["cup"]) == [("train/good/1.png", "", "")]
    assert seen(catalogue.test["cup"]) == [
        ("test/crack/4.png", "crack", "masks/crack/4_mask.tif"),
        ("test/good/3.png", "", ""),
    ]
    for reported in ("train/crack/ is not used", "holiday/ is not used", "sampled from train/"):
        assert reported in notes(root)


def test_test_without_train_draws_from_test(tmp_path):
    catalogue = folder.scan(build(tmp_path / "cup", "test/good/3.png", "test/crack/4.png"))
    assert seen(catalogue.train["cup"]) == [("test/good/3.png", "", "")] and len(catalogue.test["cup"]) == 2


def test_folder_of_categories(tmp_path):
    root = build(
        tmp_path,
        "cup/good/1.png",
        "cup/crack/1.png",
        "cup/masks/crack/1.png",
        "plate 2/train/ok/1.png",
        "plate 2/test/Normal/2.png",
        "plate 10/GOOD/1.png",
        "notes/1.png",
        "readme.png",
    )
    catalogue = folder.scan(root)
    assert catalogue.categories == ["cup", "plate 2", "plate 10"]
    assert seen(catalogue.test["cup"]) == [
        ("cup/crack/1.png", "crack", "cup/masks/crack/1.png"),
        ("cup/good/1.png", "", ""),
    ]
    assert seen(catalogue.test["plate 2"]) == [("plate 2/test/Normal/2.png", "", "")]
    assert {r.defect for c in catalogue.categories for r in catalogue.train[c]} == {"good"}
    assert "notes/ is not used" in notes(root)


def test_what_is_measured_is_said(tmp_path):
    bare = build(tmp_path / "bare", "good/1.png", "crack/1.png", "crack/2.png")
    assert "no masks: image metrics only" in notes(bare)
    assert check_catalogue(folder.scan(bare), need_masks=False) == []
    assert len(check_catalogue(folder.scan(bare))) == 2
    assert "no defects: scores only" in notes(build(tmp_path / "fine", "good/1.png"))
    some = build(
        tmp_path / "some", "good/1.png", "crack/1.png", "crack/2.png", "masks/crack/1.png", "dent/1.png"
    )
    assert "masks for 1 of 3 defective images" in notes(some)
    problems = check_catalogue(folder.scan(some), need_masks=False)
    assert len(problems) == 1 and "crack/2.png" in problems[0]
    assert [r.image_path for r in with_masks(folder.scan(some).test["some"])] == ["crack/1.png", "good/1.png"]


def test_what_is_left_aside_is_said(tmp_path):
    root = build(
        tmp_path / "cup",
        "good/1.png",
        "good/more/2.png",
        "crack/",
        "stray.png",
        "masks/good/1.png",
        "masks/dent/9.png",
        ".hidden/1.png",
        "train.png",
    )
    reported = notes(root)
    for text in (
        "folders inside good/ are not read",
        "crack/ holds no image",
        "2 images directly in the folder",
        "masks/dent/9.png: mask of no image",
        "masks/good/1.png: mask of no image",
    ):
        assert text in reported
    assert ".hidden" not in reported
    assert seen(folder.scan(root).test["cup"]) == [("good/1.png", "", "")]


@pytest.mark.parametrize(
    "names", [(), ("1.png", "2.png"), ("crack/1.png",), ("cup/crack/1.png",), ("masks/good/1.png",)]
)
def test_folders_without_normal_images_are_refused(tmp_path, names, capsys):
    build(tmp_path, *names)
    with pytest.raises(DataError, match="folder named good") as caught:
        folder.scan(tmp_path)
    assert "\n" not in str(caught.value)
    assert run_script(folder.LAYOUT, None, "", [str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", f"data/folder.py: {caught.value}\n")


def test_missing_and_unreadable_folders_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="nowhere: cannot be listed"):
        folder.scan(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="link: cannot be listed"):
        folder.scan(tmp_path / "link")
    build(tmp_path, "good/1.png", "crack/1.png")
    scandir = os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda path: scandir(tmp_path / "no" if "crack" in str(path) else path)
    )
    with pytest.raises(DataError, match="crack: cannot be listed"):
        folder.scan(tmp_path)


def test_dangling_links_are_named_and_links_to_folders_are_followed(tmp_path):
    root = build(tmp_path / "cup", "good/1.png")
    build(tmp_path / "elsewhere", "2.png")
    (root / "crack").symlink_to(tmp_path / "elsewhere")
    (root / "good" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "lost").symlink_to(tmp_path / "nowhere")
    catalogue = folder.scan(root)
    assert [r.image_path for r in catalogue.test["cup"]] == ["crack/2.png", "good/1.png", "good/gone.png"]
    problems = check_catalogue(catalogue, need_masks=False)
    assert len(problems) == 1 and "gone.png: is a link to nowhere" in problems[0]


def test_script_shows_how_a_folder_is_understood(tmp_path, capsys, monkeypatch):
    root = build(tmp_path / "cup", "good/1.png", "line\nbreak '\"\u7f3a/1.png", "masks/dent/1.png")
    monkeypatch.chdir(root)
    assert run_script(folder.LAYOUT, None, "", ["."]) == 0
    reported = capsys.readouterr().out
    for text in (
        ". is one category, cup",
        "line\\nbreak '\"\u7f3a",
        "no masks: image metrics only",
        "1 problems:\n  cup: masks/dent/1.png: mask of no image",
    ):
        assert text in reported
    assert sorted(os.listdir(root)) == sorted(["good", "line\nbreak '\"\u7f3a", "masks"])


def test_mvtec_s_layout_is_understood_the_same():
    root = SHARED / "data/mvtec"
    if not root.is_dir():
        pytest.skip(f"{root} is not here")
    assert folder.scan(root) == mvtec.scan(root) == open_catalogue("folder", root)
    assert folder.scan(root / "tire").categories == ["tire"]


# Properties -------------------------------------------------------------------------------------------------

file_names = st.sampled_from(["1", "2", "10", "a b", "qu'o\"te", "\u7f3a", "x\ny", "1_mask"])
defect_names = st.sampled_from(["crack", "Dent 2", "\u7f3a\u9677", "OKAY", "goods", "line\nbreak"])
parts = st.dictionaries(defect_names, st.sets(file_names, min_size=1), max_size=3)


def photographs_of(paths):
    """The paths but for masks that lie beside their photographs."""
    return [
        path
        for path in paths
        if path.replace("_mask.png", ".png") == path or path.replace("_mask.png", ".png") not in paths
    ]


@settings(max_examples=40, deadline=None)
@given(
    good=st.sets(file_names, min_size=1),
    normal=st.sampled_from(["good", "OK", "Normal"]),
    defects=parts,
    masks=parts,
    mask_folder=st.sampled_from(["masks", "ground_truth", "Masks"]),
    split=st.booleans(),
    nested=st.booleans(),
)
def test_every_image_is_used_once_with_its_own_mask(good, normal, defects, masks, mask_folder, split, nested):
    with tempfile.TemporaryDirectory() as temporary:
        root, inner = Path(temporary) / "cup", "cup/" if nested else ""
        images = [f"{inner}{'test/' * split}{normal}/{n}.png" for n in good]
        images += [f"{inner}{'test/' * split}{d}/{n}.png" for d, found in defects.items() for n in found]
        trained = [f"{inner}train/{normal}/{n}.png" for n in good] if split else images[: len(good)]
        for name in {
            *images,
            *trained,
            *(f"{inner}{mask_folder}/{d}/{n}.png" for d, ns in masks.items() for n in ns),
        }:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        catalogue = folder.scan(root)
        assert catalogue.categories == ["cup"]
        assert sorted(r.image_path for r in catalogue.train["cup"]) == sorted(photographs_of(trained))
        assert sorted(r.image_path for r in catalogue.test["cup"]) == sorted(photographs_of(images))
        for record in catalogue.test["cup"]:
            defect, stem = Path(record.image_path).parent.name, Path(record.image_path).stem
            wanted = {f"{stem}_mask", stem} & masks.get(defect, set()) if record.anomalous else set()
            if record.anomalous and f"{defect}/{stem}_mask.png" in record.mask_path:
                wanted.add(f"{stem}_mask")  # beside its photograph
            assert record.anomalous == (defect != normal)
            assert Path(record.mask_path).stem in wanted if wanted else record.mask_path == ""
        write_meta(catalogue, root / "meta.json")
        assert read_meta(root / "meta.json", root) == catalogue
