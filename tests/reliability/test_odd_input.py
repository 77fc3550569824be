"""Input that looks bad and is not: photographs and masks of every kind that the commands take."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fdsl.store.checkpoint import load_checkpoint
from tests.support.broken_places import copied, test, train
from tests.support.small_runs import draw_dataset
from utils.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread", "own_model_list")


@pytest.fixture
def place(base, tmp_path):
    """A place that a case may break."""
    return copied(base, tmp_path / "place")


def pictures_of_every_kind(folder):
    """Writes good test images of every kind that is taken; their names."""
    generator = np.random.default_rng(3)
    colour = Image.fromarray(generator.integers(0, 255, (40, 36, 3), dtype=np.uint8))
    grey = Image.fromarray(generator.integers(0, 2**16, (40, 36), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "cmyk.jpg": colour.convert("CMYK"),
        "sixteen.png": grey,
        "palette.png": colour.convert("P"),
        "bits.png": colour.convert("1"),
        "transparent.png": colour.convert("RGBA"),
        "one pixel.png": colour.crop((0, 0, 1, 1)),
        "sliver.png": colour.crop((0, 0, 36, 1)),
        "a 'quoted' \"name\".png": colour,
        "two\nlines.png": colour,
        "Prüfstück 検査 🔩.png": colour,
        "<img src=x onerror=alert(1)>.png": colour,
        "=1+1.png": colour,
        "-1.png": colour,
    }
    for name, picture in made.items():
        picture.save(folder / name)
    colour.save(folder / "turned.jpg", exif=exif)
    colour.save(
        folder / "animated.gif",
        save_all=True,
        append_images=[colour.rotate(90), colour.rotate(180)],
        duration=9,
    )
    return [*made, "turned.jpg", "animated.gif"]


def masks_of_every_kind(place):
    """Further defects, with masks of another size, all one, all zero, and of small numbers; one has no
    mask."""
    spot, truth = place.data / "cup/test/spot", place.data / "cup/ground_truth/spot"
    for number, mask in enumerate(
        [
            np.full((9, 7), 255, np.uint8),
            np.full((40, 36), 255, np.uint8),
            np.zeros((40, 36), np.uint8),
            np.full((40, 36), 3, np.uint8),
        ],
        start=10,
    ):
        shutil.copy(spot / "000.png", spot / f"{number:03}.png")
        Image.fromarray(mask).save(truth / f"{number:03}_mask.png")
    shutil.copy(spot / "001.png", spot / "020.png")
    return 5


def test_images_and_masks_of_every_kind_are_taken_and_none_is_left_out(place, tmp_path):
    names = pictures_of_every_kind(place.data / "cup/test/good")
    more = masks_of_every_kind(place)
    test.main(place.test("--results", str(tmp_path)))
    folder = place.run_folder(tmp_path)
    with open(folder / "scores.csv", newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 + len(names) + more
    assert {f"cup/test/good/{name}" for name in names} <= {row["image"] for row in rows}
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x onerror" not in report


def test_the_same_dataset_can_be_trained_on(place, tmp_path):
    pictures_of_every_kind(place.data / "cup/test/good")
    masks_of_every_kind(place)
    with pytest.raises(DataError, match="010_mask.png: mask of 7x9 px for an image of 36x40 px"):
        train.main(place.train("--epochs", "1", "--checkpoints", str(tmp_path)))
    (place.data / "cup/test/spot/010.png").unlink()
    for augmentation in ("mosaic", "crop"):
        train.main(
            place.train(
                "--epochs", "1", "--augmentation", augmentation, "--checkpoints", str(tmp_path / augmentation)
            )
        )
        assert load_checkpoint(tmp_path / augmentation / "m/mvtec.safetensors")


def test_duplicates_of_references_are_named(place, tmp_path, capsys):
    for number in range(3):
        shutil.copy(
            place.data / f"cup/train/good/{number:03}.png", place.data / f"cup/test/good/1{number}.png"
        )
    test.main(place.test("--k-shot", "2", "--pictures", "0", "--results", str(tmp_path)))
    reported = capsys.readouterr().err
    assert reported.count("the same file as the reference cup/train/good/") == 2
    train.main(place.train("--epochs", "1", "--k-shot", "2", "--checkpoints", str(tmp_path)))
    assert capsys.readouterr().err.count("the same file as the reference") == 2


def test_a_category_without_test_images_is_left_out_aloud(place, tmp_path, capsys):
    draw_dataset(place.data, ("bolt",), train=2, good=0, bad=0)
    (place.data / "bolt/test/good").mkdir(parents=True)
    test.main(place.test("--pictures", "0", "--results", str(tmp_path)))
    assert "category bolt has no test image and is left out" in capsys.readouterr().err
    assert list(json.loads((place.run_folder(tmp_path) / "metrics.json").read_text())["categories"]) == [
        "cup"
    ]
