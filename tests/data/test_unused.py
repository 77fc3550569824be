"""What MVTec AD's and VisA's layouts leave aside is reported when a run begins, and by their scripts."""

import pytest

from data import mvtec, visa
from data.catalogue import check_catalogue, open_catalogue, run_script
from data.images import HEIF
from tests.data.test_layouts import SPOT, make_mvtec
from tests.support.photographs import save

pytestmark = pytest.mark.usefixtures("one_thread")


def test_mvtec_names_folders_and_masks_that_it_does_not_use(tmp_path, logged, capsys):
    make_mvtec(tmp_path)
    save(tmp_path / "notes/1.png")
    save(tmp_path / "cup/drafts/1.png")
    save(tmp_path / "cup/validation/good/1.png")  # gives SegF1's threshold
    save(tmp_path / "cup/ground_truth/dent/99_mask.png", SPOT)
    wanted = (
        "notes/ is not used: it holds no good/ and no train/ or test/",
        "cup/drafts/ is not used",
        "cup/ground_truth/dent/99_mask.png: mask of no image",
    )
    open_catalogue("mvtec", tmp_path)
    assert all(text in logged() for text in wanted)
    assert run_script(mvtec.LAYOUT, tmp_path, "", []) == 0
    reported = capsys.readouterr().out
    assert all(text in reported for text in wanted) and "no problems found" not in reported


@pytest.mark.parametrize(
    "mask", ["mask/dent/2.png", "masks/dent/2_GT.png", "Ground_Truth/Dent/2_mask.png", "test/dent/2_mask.png"]
)
def test_mvtec_reads_masks_by_every_usual_name(tmp_path, mask, logged):
    save(tmp_path / "cup/train/good/1.png")
    save(tmp_path / "cup/test/good/1.png")
    save(tmp_path / "cup/test/dent/2.png")
    save(tmp_path / "cup" / mask, SPOT)
    found = {record.image_path: record.mask_path for record in open_catalogue("mvtec", tmp_path).test["cup"]}
    assert found == {"cup/test/good/1.png": "", "cup/test/dent/2.png": f"cup/{mask}"}
    assert "not used" not in logged() and "of no image" not in logged()


def make_visa(root):
    lines = ["object,split,label,image,mask"]
    for number, split in enumerate(("train", "train", "test")):
        save(root / f"nut/Data/Images/Normal/{number}.JPG")
        lines.append(f"nut,{split},normal,nut/Data/Images/Normal/{number}.JPG,")
    save(root / "nut/Data/Images/Anomaly/0.JPG")
    save(root / "nut/Data/Masks/Anomaly/0.png", SPOT)
    lines.append("nut,test,anomaly,nut/Data/Images/Anomaly/0.JPG,nut/Data/Masks/Anomaly/0.png")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return root


def test_visa_names_what_its_split_file_does_not_list(tmp_path, logged):
    make_visa(tmp_path)
    open_catalogue("visa", tmp_path)
    assert "not used" not in logged() and visa.scan(tmp_path).unused == ()
    save(tmp_path / "nut/Data/Images/Anomaly/7.JPG")
    save(tmp_path / "nut/Data/Masks/Anomaly/9.png", SPOT)
    save(tmp_path / "bolt/Data/Images/Normal/0.JPG")
    open_catalogue("visa", tmp_path)
    for text in (
        "bolt/ is not used",
        "1 files in nut/Data/Images/ are not used",
        "1 files in nut/Data/Masks/ are not used",
    ):
        assert text in logged()
    problems = check_catalogue(visa.scan(tmp_path))
    assert len(problems) == 3, problems


@pytest.mark.skipif(HEIF, reason="pillow-heif is installed here")
@pytest.mark.parametrize("dataset", ["mvtec", "visa", "folder"])
def test_photographs_that_are_not_read_are_named(tmp_path, dataset, logged):
    (make_visa if dataset == "visa" else make_mvtec)(tmp_path)
    place = tmp_path / ("nut/Data/Images/Normal" if dataset == "visa" else "cup/train/good")
    for number in range(3):
        (place / f"{number}.HEIC").write_bytes(b"x")
    (place / "1.cr2").write_bytes(b"x")
    open_catalogue(dataset, tmp_path)
    assert "3 .heic photographs are not read; install pillow-heif" in logged()
    assert "1 .cr2 photographs are not read; convert it" in logged()
