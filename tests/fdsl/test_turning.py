"""Turned copies of the references: how many are remembered where they decide."""

import numpy as np
import pytest
from fdsl.turning import show
from PIL import Image

from fdsl import turning
from fdsl.calibration import set_scales
from fdsl.scoring import Scorer
from models.detector import Detector
from models.methods.both import Both
from models.methods.fdsl import Fdsl
from models.methods.nearest import Nearest
from utils.config import AUTO

SIDE = 64


@pytest.fixture
def scorer(tiny_backbone):
    return Scorer(Detector(tiny_backbone, Nearest(tiny_backbone.width, 2), SIDE))


def rings(seed=0):
    """A photograph that looks the same however it is turned."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    waves = 127 + 100 * np.sin(np.hypot(rows, columns) / 2)
    noise = np.random.default_rng(seed).normal(0, 4, (SIDE, SIDE))
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8)).convert("RGB")


def halves(seed=0):
    """A photograph whose lower half is unlike its upper one, and which has no like when turned."""
    noise = np.random.default_rng(seed).normal(0, 4, (SIDE, SIDE, 1))
    stripes = 127 + 100 * np.sin(np.arange(SIDE) / 2)[:, None, None]
    photo = np.clip(stripes + noise + np.zeros(3), 0, 255).astype(np.uint8)
    photo[: SIDE // 2] = 255
    photo[SIDE // 2 :, : SIDE // 2, 0] = 0
    return Image.fromarray(photo)


@pytest.mark.parametrize("count", [1, 3])
def test_what_looks_alike_when_turned_is_turned(scorer, count):
    photos = [rings(seed) for seed in range(count)]
    turns = show(scorer, photos, AUTO)
    assert turns >= 4
    assert len(scorer.detector.memory) == turns * count * scorer.detector.grid**2


def test_what_looks_another_way_when_turned_is_not(scorer):
    photos = [halves(seed) for seed in range(3)]
    assert show(scorer, photos, AUTO) == 1
    assert len(scorer.detector.memory) == 3 * scorer.detector.grid**2


def test_references_of_before_decide_nothing(tiny_backbone, monkeypatch):
    """Neither do the levels that they gave the maps of a method with some."""
    heights, plain_height = [], turning._height
    monkeypatch.setattr(
        turning, "_height", lambda *given: heights.append(plain_height(*given)) or heights[-1]
    )
    heads = Fdsl(tiny_backbone.width, 2).state_dict()

    def heights_of(*parts):
        """What the last part's references are found to be, after those of the parts before."""
        method = Both(Fdsl(tiny_backbone.width, 2))
        method.trained.load_state_dict(heads)
        scorer = Scorer(Detector(tiny_backbone, method, SIDE))
        for photos in parts:
            heights.clear()
            set_scales(scorer, photos, show(scorer, photos, AUTO))
        assert (method.levels > 0).all()
        return np.concatenate(heights)

    one, other = [halves(0), halves(1)], [rings(0), rings(1)]
    assert np.array_equal(heights_of(one, other), heights_of(other))


def test_half_a_turn_may_be_safe_where_a_quarter_is_not(scorer, monkeypatch):
    """Quarter turns, which come three or seven at once, are twice as unlike the others as half a turn."""
    monkeypatch.setattr(
        turning, "_height", lambda scorer, pixels, match=None: np.full(len(pixels), min(len(pixels), 2))
    )
    photos = [rings(seed) for seed in range(3)]
    scorer.remember(scorer.to_batch(photos))
    assert turning.safe_turns(scorer, photos) == 2


def test_a_number_is_taken_as_it_is(scorer):
    assert show(scorer, [halves()], 4) == 4
    assert len(scorer.detector.memory) == 4 * scorer.detector.grid**2
