"""A settings file of predict.py makes the same detector in Python."""

import pytest

import fdsl
from fdsl.api import AnomalyDetector
from tests.support.photographs import draw
from tests.support.predictions import BACKBONE_OPTIONS
from utils.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def settings(tmp_path, tiny_configs):
    """Writes a settings file of the tiny backbone and these lines; `good/` has two references."""
    for number in (1, 2):
        draw(tmp_path / "good" / f"{number}.png", number)

    def written(*lines):
        backbone = f"model: ViT-tiny-test\nmodel_config: {tiny_configs}\npretrained: none\nlayers: [1, 3]\n"
        text = backbone + "image-size: 64\ndevice: cpu\nprecision: fp32\n" + "\n".join(lines)
        (tmp_path / "part.yaml").write_text(text)
        return tmp_path / "part.yaml"

    return written


def test_it_is_the_detector_of_the_command(settings, tmp_path, tiny_configs):
    lines = ["method: nearest", f"references: {tmp_path / 'good'}", "false-alarm-rate: 0.05", "min-area: 7"]
    made = fdsl.detector_from_config(settings(*lines, "input: somewhere", "output: out", "save-maps: true"))
    plain = AnomalyDetector.from_backbone(
        method="nearest", model_config=tiny_configs, device="cpu", precision="fp32", **BACKBONE_OPTIONS
    )
    plain.fit(tmp_path / "good", rotations=1, false_alarm_rate=0.05)
    assert made.threshold == plain.threshold and made.min_area == 7
    photo = tmp_path / "good" / "1.png"
    assert made.predict(photo).score == plain.predict(photo).score
    made.save(tmp_path / "part.safetensors")
    (tmp_path / "again.yaml").write_text(f"detector: {tmp_path / 'part.safetensors'}\nthreshold: 0.125\n")
    assert fdsl.detector_from_config(tmp_path / "again.yaml").threshold.score == 0.125


def test_without_references_it_waits_for_fit(settings):
    made = fdsl.detector_from_config(settings("method: nearest"))
    assert not made.ready and made.config.detector.method == "nearest"


@pytest.mark.parametrize(
    "line, words",
    [
        ("metod: plus", "line 8: metod is no setting of predict.py; did you mean method"),
        ("image-score: best", "invalid choice: 'best'"),
        ("calibration: more\nthreshold: 3", "are two thresholds"),
        ("threshold: batch", "learn_threshold_from_batch"),
        ("add-references: more", "name it with --detector"),
        ("references: [nowhere]", "nowhere"),
    ],
)
def test_what_cannot_be_is_raised(settings, capsys, line, words):
    with pytest.raises((ConfigError, DataError), match=words):
        fdsl.detector_from_config(settings(line))
    assert "usage" not in capsys.readouterr().err


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        fdsl.detector_from_config(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="config 3 is no name of a file"):
        fdsl.detector_from_config(3)
