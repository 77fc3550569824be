"""test.py --submission: what the server of MVTec AD 2 takes, by the rules of its published checker."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from fdsl.evaluation import submission
from tests.support.both_layouts import BACKBONE
from tests.support.photographs import texture
from tests.support.small_runs import command
from utils.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("one_thread")
test = command("test")
COUNTS = {"can": 2, "vial": 3}
SIZE = (50, 40)


def write(file, seed, defect=False):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(texture(seed, defect, SIZE[1] + 20, SIZE[0] + 20)).resize(SIZE).save(file)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two objects as MVTec AD 2 lays them, with fewer images."""
    root = tmp_path_factory.mktemp("mvtec_ad_2")
    for name, count in COUNTS.items():
        for number in range(3):
            write(root / name / f"train/good/{number:03d}_regular.png", number)
            write(root / name / f"validation/good/{number:03d}_regular.png", 10 + number)
        write(root / name / "test_public/good/000_regular.png", 20)
        write(root / name / "test_public/bad/000_regular.png", 21, defect=True)
        mask = root / name / "test_public/ground_truth/bad/000_regular_mask.png"
        mask.parent.mkdir(parents=True)
        Image.fromarray(np.pad(np.full((9, 9), 255, np.uint8), ((20, 11), (25, 16)))).save(mask)
        for number in range(count):
            write(root / name / f"test_private/{number:03d}_regular.png", 30 + number, defect=number == 1)
            write(root / name / f"test_private_mixed/{number:03d}_mixed.png", 40 + number)
    return root


def run(dataset, tiny_configs, folder, *more):
    places = ["--data-path", str(dataset), "--results", str(folder / "results")]
    flags = ["--dataset", "folder", "--method", "nearest", "--pictures", "0", "--model-config", tiny_configs]
    test.main([*flags, *places, "--submission", str(folder / "sent"), *BACKBONE, *more])


def test_both_trees_are_what_the_checker_takes(dataset, tiny_configs, tmp_path, monkeypatch, logged):
    monkeypatch.setattr(submission, "OBJECTS", COUNTS)
    for _ in range(2):  # a second one takes the place of the first
        run(dataset, tiny_configs, tmp_path)
    sent = tmp_path / "sent"
    assert submission.problems_of(sent) == [] and "the server refuses" not in logged()
    maps = sorted(file.relative_to(sent / "anomaly_images") for file in sent.glob("anomaly_images/*/*/*"))
    assert [str(file) for file in maps][:3] == [
        "can/test_private/000_regular.tiff",
        "can/test_private/001_regular.tiff",
        "can/test_private_mixed/000_mixed.tiff",
    ]
    assert len(maps) == 2 * sum(COUNTS.values()) and {entry.name for entry in sent.iterdir()} == {
        "anomaly_images",
        "anomaly_images_thresholded",
    }
    highest = {}
    for file in maps:
        values = tifffile.imread(sent / "anomaly_images" / file)
        mask = np.asarray(Image.open(sent / "anomaly_images_thresholded" / file.with_suffix(".png")))
        assert values.dtype == np.float16 and values.shape == mask.shape == SIZE[::-1]
        assert set(np.unique(mask)) <= {0, 255}
        if (mask > 0).any() and not (mask > 0).all():
            assert values[mask > 0].min() > values[mask == 0].max()
        highest[str(file)] = values.max()
    assert max(highest, key=highest.get).endswith("test_private/001_regular.tiff")  # the one with a defect


def spoil(sent, how):
    if how == "missing":
        (sent / "anomaly_images/can/test_private/000_regular.tiff").unlink()
    else:
        other = sent / how
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("")


@pytest.mark.parametrize(
    "how, sentence",
    [
        ("missing", "1 file(s) are missing, anomaly_images/can/test_private/000_regular.tiff the first"),
        ("note.txt", "1 file(s) do not belong into it, note.txt the first"),
        (
            "anomaly_images/bottle/test_private/000_regular.tiff",
            "1 file(s) do not belong into it, anomaly_images/bottle/test_private/000_regular.tiff the first",
        ),
    ],
)
def test_what_the_checker_refuses_is_named(tmp_path, monkeypatch, how, sentence):
    monkeypatch.setattr(submission, "OBJECTS", {"can": 2})
    for split, kind in submission.SPLITS.items():
        for number in range(2):
            for tree, suffix in submission.SUFFIXES.items():
                file = tmp_path / tree / "can" / split / f"{number:03d}_{kind}{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                values = np.zeros(SIZE[::-1])
                if suffix == ".tiff":
                    tifffile.imwrite(file, values)
                else:
                    Image.fromarray(values.astype(np.uint8)).save(file)
    assert submission.problems_of(tmp_path) == []
    spoil(tmp_path, how)
    assert submission.problems_of(tmp_path) == [sentence]


def test_what_is_not_whole_is_a_warning(dataset, tiny_configs, tmp_path, logged):
    run(dataset, tiny_configs, tmp_path)
    assert "the server refuses" in logged() and "file(s) are missing, anomaly_images/can/" in logged()


def test_what_cannot_be_submitted_is_refused(dataset, tiny_configs, tmp_path, datasets):
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent/note.txt").write_text("")
    with pytest.raises(ConfigError, match="holds note.txt; name a new or empty folder"):
        run(dataset, tiny_configs, tmp_path)
    with pytest.raises(DataError, match="there is no image; --submission needs MVTec AD 2"):
        run(datasets[0], tiny_configs, tmp_path / "other")
    for more in (["--k-shot", "1", "2"], ["--ablate", "fd=signed"]):
        with pytest.raises((ConfigError, SystemExit)):
            run(dataset, tiny_configs, tmp_path, *more)
