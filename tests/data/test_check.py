"""What the check of a catalogue finds."""

from pathlib import Path

import pytest
from PIL import Image

from data.check import check_catalogue, find_duplicates
from data.records import Catalogue, Record
from utils.limits import allow_pixels


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
    allow_pixels(100)
    assert "above the limit" in check_catalogue(catalogue, decode=False)[0]


def test_duplicates_between_references_and_test(tmp_path):
    for name, value in (("a", 1), ("b", 2), ("copy of a", 1)):
        Image.new("L", (4, 4), value).save(tmp_path / f"{name}.png")
    a, b, copy, gone = (Record(f"{n}.png", "", "cup", "good", False) for n in ("a", "b", "copy of a", "gone"))
    found = find_duplicates(tmp_path, [a], [b, copy, gone])
    assert len(found) == 1 and "copy of a.png" in found[0]
    assert find_duplicates(tmp_path, [gone], [a, b]) == []
