"""Rotated copies of the references: which of their patches count, and when two references do without."""

import numpy as np
import pytest
import torch
from PIL import Image

from fdsl.references.rotation import ROTATIONS, fit_references, rotation_gain
from fdsl.scoring import Scorer
from models.detector import Detector
from models.methods.nearest import Nearest
from utils.config import AUTO, WindowConfig
from utils.errors import ConfigError

SIDE = 64


def scorer_of(backbone, windows=None):
    method = Nearest(backbone.width, len(backbone.layers))
    return Scorer(Detector(backbone, method, SIDE, windows or WindowConfig("nan")))


def bar(degrees, noise=0):
    """A bright bar in the middle of a dark frame, in some direction."""
    place = np.indices((SIDE, SIDE)) - SIDE / 2 + 0.5
    angle = np.deg2rad(degrees)
    along, across = (
        (place[0] * np.cos(angle) + place[1] * np.sin(angle)),
        (place[1] * np.cos(angle) - place[0] * np.sin(angle)),
    )
    shade = np.where((abs(along) < 24) & (abs(across) < 7), 220 + along * 1.2, 40)
    shade = shade + np.random.default_rng(noise).normal(0, 3, shade.shape)
    return Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8)).convert("RGB")


def test_parts_that_lie_in_any_direction_are_rotated(tiny_backbone):
    scorer = scorer_of(tiny_backbone)
    lying_anyhow, aligned = [bar(0, 1), bar(90, 2)], [bar(0, 1), bar(0, 2)]
    assert rotation_gain(scorer, lying_anyhow, 8) > 0.3 > rotation_gain(scorer, aligned, 8) >= 0
    assert fit_references(scorer, lying_anyhow, AUTO) == ROTATIONS


def test_parts_that_all_lie_alike_are_not_rotated(tiny_backbone, monkeypatch):
    monkeypatch.setattr(
        "fdsl.references.rotation.LEAST_GAIN", 0.25
    )  # random features see less of a direction
    scorer = scorer_of(tiny_backbone)
    assert fit_references(scorer, [bar(0, 1), bar(0, 2)], AUTO) == 1
    assert scorer.detector.memories.whole.photographs == 2


def test_one_reference_is_rotated_and_a_number_is_taken_as_it_is(tiny_backbone):
    scorer = scorer_of(tiny_backbone)
    assert fit_references(scorer, [bar(0)], AUTO) == ROTATIONS
    assert fit_references(scorer, [bar(0)], 3) == 3 == scorer.detector.memories.whole.photographs
    assert fit_references(scorer, [bar(0), bar(0, 1)], 1) == 1


def test_rotated_copies_that_memory_does_not_hold_are_one_sentence(tiny_backbone, monkeypatch):
    attempts = []

    def too_large(*_):
        attempts.append(None)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr("fdsl.references.rotation._similarity", too_large)
    scorer = scorer_of(tiny_backbone)
    with scorer.detector.encoding_once(), pytest.raises(ConfigError, match="not enough memory"):
        fit_references(scorer, [bar(0, 1), bar(0, 2)], AUTO)
    assert len(attempts) == 2  # once more without what was encoded before


@pytest.mark.parametrize("tiles", [1, 2])
def test_half_of_the_copies_patches_that_show_the_photograph_are_in_the_bank(tiny_backbone, tiles):
    scorer = scorer_of(tiny_backbone, WindowConfig("nan", tiles=tiles))
    fit_references(scorer, [bar(0)], 8)
    detector = scorer.detector
    whole = detector.grid**2
    sizes = detector.memories.whole.sizes
    assert sizes[0] == whole and sizes[2::2] == (whole // 2,) * 3
    assert all(0 < size < whole // 2 for size in sizes[1::2])
    if tiles > 1:
        full = len(detector.layout) * whole
        assert (
            detector.memories.tiles.sizes[0] == full
            and detector.memories.tiles.sizes[2::2] == (full // 2,) * 3
        )
        assert all(0 < size < full // 2 for size in detector.memories.tiles.sizes[1::2])
    again = detector.copied()
    pixels = scorer.to_batch([bar(0)])
    assert torch.equal(again(pixels).base, detector(pixels).base)
