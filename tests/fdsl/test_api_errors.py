"""The Python interface refuses what it cannot use with the errors that it documents."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from fdsl.api import AnomalyDetector
from tests.support.photographs import draw, texture
from tests.support.predictions import BACKBONE_OPTIONS
from utils.errors import ConfigError, DataError
from utils.views import Views

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tiny_configs):
    found = AnomalyDetector.from_backbone(
        model_config=tiny_configs, device="cpu", precision="fp32", **BACKBONE_OPTIONS
    )
    found.fit([texture(1), texture(2)])
    return found


NO_NUMBERS = ("x", float("nan"), float("inf"), 10**400, 1j, [0.1], np.array([0.1, 0.2]), {}, torch.ones(2))


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: str(value)[:9])
def test_what_is_no_number(made, value):
    photographs = [texture(number) for number in range(8)]
    for refuse in (
        lambda: made.set_threshold(value),
        lambda: made.calibrate(value),
        lambda: made.fit([texture(1), texture(2)], false_alarm_rate=value),
        lambda: made.fit([texture(1)], rotations=value),
        lambda: made.learn_threshold_from_batch(photographs, value),
    ):
        with pytest.raises(ConfigError) as refused:
            refuse()
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize("rotations", [0, -1, 361, 10**9, 2.0, True])
def test_rotations_that_there_are_not(made, rotations):
    with pytest.raises(ConfigError, match="rotations is"):
        made.fit([texture(1)], rotations=rotations)


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


def pipe(folder):
    os.mkfifo(folder / "a.png")
    return folder / "a.png"


NO_IMAGES = {
    "closed": closed,
    "cut": cut,
    "none": lambda _: None,
    "meta": lambda _: torch.zeros(3, 8, 8, device="meta"),
    "sparse": lambda _: torch.zeros(3, 8, 8).to_sparse(),
    "nothing": lambda _: np.zeros((0, 0, 3), np.uint8),
    "no pixels": lambda _: Image.new("RGB", (0, 0)),
    "missing": lambda folder: folder / "nowhere.png",
    "pipe": pipe,
    "giant array": lambda _: np.broadcast_to(np.uint8(0), (2**20, 2**20, 3)),
    "giant tensor": lambda _: torch.zeros(1).expand(3, 2**20, 2**20),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image(made, tmp_path, kind):
    image = NO_IMAGES[kind](tmp_path)
    for refuse in (
        lambda: made.predict(image),
        lambda: list(made.stream(image)),
        lambda: list(made.stream([image])),
        lambda: made.add_references(image),
        lambda: made.calibrate(0.5, [image]),
    ):
        with pytest.raises(DataError):
            refuse()


NO_BATCHES = (
    None,
    "x",
    5,
    [],
    torch.zeros(()),
    np.zeros((1, 3, 32, 32), np.uint8),
    torch.zeros(1, 3, 32, 32),
    torch.ones(3),
    Views(torch.zeros(1, 3, 32, 32)),
    Views(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)),
    Views(*torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8)),
)


@pytest.mark.parametrize("value", NO_BATCHES, ids=lambda value: type(value).__name__)
def test_what_is_no_batch(made, value):
    with pytest.raises(DataError, match="the batch is none of to_batch"):
        made.begin_batch(value, [(8, 8)])
    with pytest.raises(DataError, match="are no RGB photographs"):
        made.to_batch(value)
    with pytest.raises(DataError, match="sizes are not 1 pairs"):
        made.begin_batch(made.to_batch([Image.new("RGB", (8, 8))]), value)


@pytest.mark.parametrize("make", [closed, cut])
def test_a_batch_of_images_that_cannot_be_read(made, tmp_path, make):
    with pytest.raises(DataError, match="are no RGB photographs"):
        made.to_batch([make(tmp_path)])


def test_labels_that_are_none(made):
    with pytest.raises(ConfigError, match="labels are a NoneType"):
        made.learn_threshold([texture(1), texture(2)], None)


NO_PLACE = (True, 5, b"x", np.zeros(2), torch.zeros(2), {})


@pytest.mark.parametrize("value", NO_PLACE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["pretrained", "model_config", "precision"])
def test_what_is_no_place_of_weights(made, tiny_configs, tmp_path, name, value):
    made.save(tmp_path / "part.safetensors")
    files = {"model_config": tiny_configs, **BACKBONE_OPTIONS}
    for refuse in (
        lambda: AnomalyDetector.load(tmp_path / "part.safetensors", **{name: value}),
        lambda: AnomalyDetector.from_backbone(**{**files, name: value}),
    ):
        with pytest.raises(ConfigError):
            refuse()


NO_TEXT = (None, 1, b"x", [], {}, object())
NO_FILE = (*NO_TEXT, "", "/", "a\0b", "x" * 300, "\ud800")


@pytest.mark.parametrize("value", NO_FILE, ids=lambda value: str(value)[:9].replace("\0", "0"))
def test_what_is_no_name_of_a_file(made, value):
    for refuse in (
        lambda: made.save(value),
        lambda: AnomalyDetector.load(value),
        lambda: AnomalyDetector.from_checkpoint(value),
    ):
        with pytest.raises(ConfigError, match="is no name of a file"):
            refuse()


@pytest.mark.parametrize(
    "value", (*NO_TEXT, "a\0\x1b[2J", "x" * 5000), ids=lambda value: type(value).__name__
)
def test_what_is_no_text(made, tiny_configs, tmp_path, value):
    made.save(tmp_path / "part.safetensors")
    files = {"model_config": tiny_configs, **BACKBONE_OPTIONS}
    for name, refuse in {
        "device": lambda: AnomalyDetector.from_backbone(**files, device=value),
        "precision": lambda: AnomalyDetector.from_backbone(**files, precision=value),
        "preset": lambda: AnomalyDetector.from_backbone(**files, preset=value),
        "model": lambda: AnomalyDetector.from_backbone(**{**files, "model": value}),
    }.items():
        if name in ("model", "preset") and value is None:
            continue  # not given
        called = name if name == "preset" else f"--{name}"
        with pytest.raises(ConfigError, match=f"{called} .* is no text"):
            refuse()
    if value is not None:
        with pytest.raises(ConfigError, match="--precision .* is no text"):
            AnomalyDetector.load(tmp_path / "part.safetensors", precision=value)


def test_a_precision_that_there_is_not(made, tmp_path):
    made.save(tmp_path / "part.safetensors")
    with pytest.raises(ConfigError, match="--precision fp8: .* was made in float32"):
        AnomalyDetector.load(tmp_path / "part.safetensors", precision="fp8")


@pytest.mark.parametrize("value", ["nowhere.png", "", "a\0b"])
def test_calibration_images_that_are_not_there(made, value):
    with pytest.raises(DataError, match="cannot be read"):
        made.calibrate(0.01, value)


def test_errors_name_the_argument(made):
    for refused, words in (
        (lambda: made.fit(5), "references are a int"),
        (lambda: made.fit([texture(1), 5]), r"references\[1\] is a int"),
        (lambda: made.fit([texture(1)], test_images=5), "test_images are a int"),
        (lambda: made.fit([texture(1)], false_alarm_rate=2), "false_alarm_rate is 2"),
        (lambda: made.calibrate(0), "false_alarm_rate is 0"),
        (lambda: made.set_threshold("x"), "score is x"),
        (lambda: made.predict([texture(1), None]), r"images\[1\] is a NoneType"),
        (lambda: made.predict(texture(1).astype(float)), r"images\[0\] is an array"),
        (lambda: made.predict(texture(1)).mask("x"), "threshold is 'x'"),
        (lambda: made.restrict("x"), "mask is None str"),
        (lambda: made.restrict(np.zeros((5, 5), np.uint8)), r"mask is \(5, 5\) uint8"),
        (lambda: made.forget(false_alarm_rate="yes"), "false_alarm_rate is yes"),
        (lambda: made.learn_threshold([texture(1), texture(2)], [0, float("nan")]), "labels hold"),
        (lambda: made.learn_threshold([texture(1), texture(2)], ["good", ""]), "labels hold"),
        (lambda: made.learn_threshold([texture(1), texture(2)], np.zeros((2, 2))), "labels hold"),
        (lambda: made.learn_threshold([texture(1), texture(2)], torch.zeros(2, 2)), "labels hold"),
        (lambda: made.learn_threshold([texture(1), texture(2)], torch.zeros(())), "labels hold"),
        (lambda: made.predict([texture(1)], 0), "batch_size is 0"),
        (lambda: made.predict([texture(1)], "x"), "batch_size is x"),
        (lambda: made.predict([texture(1)], "x\0\ny"), r"batch_size is x\\x00 y;"),
        (lambda: made.set_threshold(np.zeros((9, 2))), r"score is \[\[0. 0.\] \[0. 0.\]"),
        (lambda: made.calibrate("\x1b[2J"), r"false_alarm_rate is \\x1b\[2J"),
        (lambda: list(made.stream([texture(1)], True)), "batch_size is True"),
        (lambda: AnomalyDetector.from_backbone(preset="nothing"), "preset is nothing"),
    ):
        with pytest.raises((ConfigError, DataError), match=f"^{words}"):
            refused()


def test_a_batch_may_be_as_large_as_a_number_can_be(made):
    assert len(made.predict([texture(1), texture(2)], 10**400)) == 2
