"""The Python interface refuses what it cannot use with the errors that it documents."""

import numpy as np
import pytest
import torch
from PIL import Image

from fdsl.api import AnomalyDetector
from tests.support.photographs import draw, texture
from tests.support.predictions import TOWER
from utils.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tiny_configs):
    found = AnomalyDetector.from_backbone(model_config=tiny_configs, device="cpu", precision="fp32", **TOWER)
    found.remember([texture(1), texture(2)])
    return found


NO_NUMBERS = ("x", float("nan"), float("inf"), 10**400, 1j, [0.1], np.array([0.1, 0.2]), {}, torch.ones(2))


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: str(value)[:9])
def test_what_is_no_number(made, value):
    photographs = [texture(number) for number in range(8)]
    for refuse in (
        lambda: made.set_threshold(value),
        lambda: made.calibrate(value),
        lambda: made.remember([texture(1), texture(2)], false_alarm_rate=value),
        lambda: made.remember([texture(1)], rotations=value),
        lambda: made.learn_threshold_from_batch(photographs, value),
    ):
        with pytest.raises(ConfigError) as refused:
            refuse()
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize("rotations", [0, -1, 361, 10**9, 2.0, True])
def test_rotations_that_there_are_not(made, rotations):
    with pytest.raises(ConfigError, match="rotations is"):
        made.remember([texture(1)], rotations=rotations)


def closed(folder):
    draw(folder / "a.png", 1)
    image = Image.open(folder / "a.png")
    image.close()
    return image


def cut(folder):
    draw(folder / "a.png", 1)
    content = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(content[: len(content) // 2])
    return Image.open(folder / "a.png")


NO_IMAGES = {
    "closed": closed,
    "cut": cut,
    "none": lambda _: None,
    "meta": lambda _: torch.zeros(3, 8, 8, device="meta"),
    "sparse": lambda _: torch.zeros(3, 8, 8).to_sparse(),
    "nothing": lambda _: np.zeros((0, 0, 3), np.uint8),
    "missing": lambda folder: folder / "nowhere.png",
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image(made, tmp_path, kind):
    image = NO_IMAGES[kind](tmp_path)
    for refuse in (
        lambda: made.predict(image),
        lambda: list(made.stream(image)),
        lambda: list(made.stream([image])),
        lambda: made.add_references(image),
    ):
        with pytest.raises(DataError):
            refuse()


def test_labels_that_are_none(made):
    with pytest.raises(ConfigError, match="labels are a NoneType"):
        made.learn_threshold([texture(1), texture(2)], None)
