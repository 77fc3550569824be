"""A saved detector that memory does not hold."""

import numpy as np
import pytest
import torch

from fdsl.api import AnomalyDetector, ConfigError
from models.detector import Detector
from models.matching.memory_bank import MemoryBank
from tests.support.photographs import texture
from tests.support.predictions import BACKBONE_OPTIONS
from utils.views import Views


@pytest.fixture
def detector(tiny_configs):
    found = AnomalyDetector.from_backbone(
        method="nearest",
        winmode="mul",
        win_size=4,
        win_stride=2,
        model_config=tiny_configs,
        device="cpu",
        precision="fp32",
        **BACKBONE_OPTIONS,
    )
    found.fit(np.stack([texture(number) for number in (1, 2, 3)]), false_alarm_rate=None)
    return found


def too_large(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")


def test_a_file_that_does_not_fit_is_not_called_broken(detector, tiny_configs, tmp_path, monkeypatch):
    detector.save(tmp_path / "saved.safetensors")
    monkeypatch.setattr(MemoryBank, "restored", too_large)
    with pytest.raises(ConfigError, match="does not fit into the memory of cpu .*another --device") as found:
        AnomalyDetector.load(tmp_path / "saved.safetensors", model_config=tiny_configs, device="cpu")
    assert "save it again" not in str(found.value)


def test_a_bank_that_fits_once_but_not_twice_is_one_sentence(detector, monkeypatch):
    monkeypatch.setattr(Detector, "without", too_large)
    with pytest.raises(ConfigError, match="not enough memory"):
        detector.scorer.without(1, 3)


def test_where_memory_is_short_what_takes_most_is_made_smaller(detector):
    made = detector.scorer.detector
    windows, patches = len(made.windows), made.windows.grid.encoded**2
    made.at_once.patches = windows * patches
    assert not made.spare(windows * patches // made.grid**2 + 1) and made.windows.chunk == windows
    assert made.spare(1) and made.windows.chunk == windows // 2
    with made.encoding_once():
        made.encode(Views(torch.zeros(1, 3, made.image_size, made.image_size, dtype=torch.uint8)))
        assert made.spare(1) and made.windows.chunk == windows // 2 and not made.encode.cached
        assert made.spare(1) and made.windows.chunk == windows // 4


def test_photographs_that_are_looked_at_come_in_halves_where_memory_is_short(tiny_configs, monkeypatch):
    made = AnomalyDetector.from_backbone(
        method="batch", model_config=tiny_configs, device="cpu", precision="fp32", **BACKBONE_OPTIONS
    )
    photographs = np.stack([texture(number) for number in range(5)])
    made.fit(test_images=photographs, false_alarm_rate=None)
    wanted = made.scorer.detector.memories.whole.tokens
    encode = made.backbone.encode

    def short(pixels, *more):
        return too_large() if len(pixels) > 2 else encode(pixels, *more)

    monkeypatch.setattr(made.backbone, "encode", short)
    made.fit(test_images=photographs, false_alarm_rate=None)
    assert torch.allclose(made.scorer.detector.memories.whole.tokens, wanted, atol=1e-6)


def test_a_method_that_matches_no_patches_is_saved_with_its_windows(tiny_configs, tmp_path):
    made = AnomalyDetector.from_backbone(
        method="subspace",
        winmode="mul",
        win_size=4,
        win_stride=2,
        index_memory="1",
        model_config=tiny_configs,
        device="cpu",
        precision="fp32",
        **BACKBONE_OPTIONS,
    )
    made.fit(np.stack([texture(number) for number in (1, 2)]), false_alarm_rate=None)
    made.save(tmp_path / "saved.safetensors")
    again = AnomalyDetector.load(tmp_path / "saved.safetensors", model_config=tiny_configs, device="cpu")
    found, expected = (one.predict(texture(3)).window_map for one in (again, made))
    assert np.array_equal(found, expected)
