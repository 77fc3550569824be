"""Public datasets as their makers lay them, drawn small: each loads by --dataset folder with every mask."""

import numpy as np
import pytest
from PIL import Image

from data import folder
from data.catalogue import check_catalogue
from data.dataset import files_digest, load
from data.masks import open_mask
from data.records import read_meta, write_meta
from utils.errors import DataError


def photograph(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(str(file))).integers(60, 200, (20, 24, 3), np.uint8)).save(file)


def mask(file, *corners, value=255):
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((20, 24), np.uint8)
    for row, column in corners:
        values[row : row + 4, column : column + 4] = value
    Image.fromarray(values).save(file)


def loco(root):
    """MVTec LOCO AD: several masks of one photograph, of other values, in a folder of its own."""
    part = root / "juice_bottle"
    for place in ("train/good/000", "train/good/001", "validation/good/000", "test/good/000"):
        photograph(part / f"{place}.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        photograph(part / f"test/{kind}/000.png")
        photograph(part / f"test/{kind}/001.png")
        mask(part / f"ground_truth/{kind}/000/000.png", (2, 2), value=234)
        mask(part / f"ground_truth/{kind}/001/000.png", (2, 2), value=234)
        mask(part / f"ground_truth/{kind}/001/001.png", (12, 14), value=235)
    (part / "defects_config.json").write_text("[]")
    return root


def ksdd2(root):
    """KolektorSDD2: photographs in train/ and test/ themselves, each with its mask beside it."""
    for number in range(4):
        for split, first in (("train", 10000), ("test", 20000)):
            photograph(root / split / f"{first + number}.png")
            mask(root / split / f"{first + number}_GT.png", *([(4, 4)] if number == 1 else []))
    return root


def real_iad(root):
    """Real-IAD: folders of samples, whose views that show the defect have a PNG mask beside the JPEG."""
    part = root / "audiojack"
    for sample in ("S0001", "S0002"):
        for view in range(1, 4):
            photograph(part / f"OK/{sample}/audiojack_{sample}_OK_C{view}.jpg")
            photograph(part / f"NG/BX/{sample}/audiojack_{sample}_NG_BX_C{view}.jpg")
    for sample in ("S0001", "S0002"):
        for view in (1, 3):
            mask(part / f"NG/BX/{sample}/audiojack_{sample}_NG_BX_C{view}.png", (5, 5))
    photograph(part / "NG/HS/S0009/audiojack_S0009_NG_HS_C1.jpg")
    mask(part / "NG/HS/S0009/audiojack_S0009_NG_HS_C1.png", (5, 5))
    return root


def btad(root):
    """BTAD: ok and ko, masks of the photograph's own name, in another format in one product."""
    for product, suffix in (("01", "bmp"), ("02", "png")):
        for place in ("train/ok/0000", "train/ok/0001", "test/ok/0002", "test/ko/0003"):
            photograph(root / f"{product}/{place}.{suffix}")
        mask(root / f"{product}/ground_truth/ko/0003.png", (3, 3))
    return root


def mpdd(root):
    """MPDD: MVTec AD's folders."""
    for place in ("train/good/000", "test/good/000", "test/hole/000"):
        photograph(root / f"bracket_black/{place}.png")
    mask(root / "bracket_black/ground_truth/hole/000_mask.png", (3, 3))
    return root


@pytest.mark.parametrize(
    "draw, category, train, good, kinds",
    [
        (loco, "juice_bottle", 2, 1, {"logical_anomalies": 2, "structural_anomalies": 2}),
        (ksdd2, "set", 3, 3, {"defect": 1}),
        (real_iad, "audiojack", 6, 6, {"BX": 4, "HS": 1}),
        (btad, "01", 2, 1, {"ko": 1}),
        (btad, "02", 2, 1, {"ko": 1}),
        (mpdd, "bracket_black", 1, 1, {"hole": 1}),
    ],
    ids=["loco", "ksdd2", "real_iad", "btad_01", "btad_02", "mpdd"],
)
def test_it_loads_with_every_mask(tmp_path, draw, category, train, good, kinds):
    root = draw(tmp_path / "set")
    catalogue = folder.scan(root)
    assert len(catalogue.train[category]) == train
    assert not any(record.anomalous for record in catalogue.train[category])
    test = catalogue.test[category]
    assert sum(not record.anomalous for record in test) == good
    found = [record.defect for record in test if record.anomalous]
    assert {kind: found.count(kind) for kind in found} == kinds
    for record in test:
        assert bool(record.mask_path) == record.anomalous
        _, truth = load(root, record)
        assert truth is None or truth.getextrema() == (0, 255)
    assert check_catalogue(catalogue, need_masks=False) == list(catalogue.unused)
    write_meta(catalogue, tmp_path / "meta.json")
    assert read_meta(tmp_path / "meta.json", root).test == catalogue.test


def notes(root):
    catalogue = folder.scan(root)
    return "\n".join([*catalogue.rules, *catalogue.unused])


def test_several_masks_of_one_photograph_are_joined(tmp_path):
    root = loco(tmp_path / "set")
    (record,) = [
        r for r in folder.scan(root).test["juice_bottle"] if r.image_path.endswith("l_anomalies/001.png")
    ][:1]
    values = np.asarray(open_mask(root / record.mask_path)) > 0
    assert values.sum() == 32 and values[3, 3] and values[13, 15]
    assert notes(root).count("mask of no image") == 0
    before = files_digest(root, [record])
    mask(root / record.mask_path / "002.png", (0, 0))
    assert files_digest(root, [record]) != before


def test_joined_masks_of_two_sizes_are_refused(tmp_path):
    root = loco(tmp_path / "set")
    place = root / "juice_bottle/ground_truth/logical_anomalies/001"
    Image.new("L", (3, 3), 255).save(place / "001.png")
    with pytest.raises(DataError, match="001.png: has another size than the other masks"):
        open_mask(place)
    for file in place.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="is not a file and holds no mask"):
        open_mask(place)


def test_what_of_a_public_dataset_is_not_used_is_said(tmp_path):
    assert "1 defective images in train/ are not used" in notes(ksdd2(tmp_path / "ksdd2"))
    photograph(tmp_path / "ksdd2/test/30000.png")
    assert "1 images in test/ have no mask next to them" in notes(tmp_path / "ksdd2")
    assert "2 views without a mask next to them are not used" in notes(real_iad(tmp_path / "iad"))
    of_loco = notes(loco(tmp_path / "loco"))
    assert "validation/good/ gives the threshold of SegF1" in of_loco and "is not used" not in of_loco
    (tmp_path / "loco/juice_bottle/private").mkdir()
    assert "juice_bottle/private/ is not used" in notes(tmp_path / "loco")


def test_a_broken_mask_beside_its_photograph_is_named(tmp_path):
    root = ksdd2(tmp_path / "set")
    (root / "test/20001_GT.png").write_bytes(b"x")
    with pytest.raises(DataError, match="mask of test/20001.png"):
        folder.scan(root)


def test_links_that_lead_back_up_end(tmp_path):
    photograph(tmp_path / "set/good/a/1.png")
    (tmp_path / "set/good/a/back").symlink_to(tmp_path / "set/good")
    (tmp_path / "set/good/a/itself").symlink_to(tmp_path / "set/good/a/itself")
    (train,) = folder.scan(tmp_path / "set").train.values()
    assert [record.image_path for record in train] == ["good/a/1.png"]
