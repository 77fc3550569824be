"""Two backbones whose maps are fused: beside the same arithmetic written down plainly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data.images import image_to_pixels, photograph_to_pixels
from data.variants import varied
from fdsl.api import AnomalyDetector
from fdsl.settings import backbone_config
from tests.support.predictions import TOWER
from utils.config import WindowConfig
from utils.errors import ConfigError, ModelError
from utils.two_sides import TwoSides

SECOND = {"model": "timm/test_vit", "pretrained": "none", "layers": (2, 5), "image_size": 96}


def photographs(count, seed=0):
    noise = np.random.default_rng(seed)
    return [Image.fromarray(noise.integers(0, 256, (80, 70, 3), dtype=np.uint8)) for _ in range(count)]


def detector(tiny_configs, method, *, first=True, second=None):
    tower = {**TOWER, "model_config": tiny_configs} if first else SECOND
    other = None if second is None else backbone_config(second)
    return AnomalyDetector.from_backbone(method=method, second=other, device="cpu", precision="fp32", **tower)


def test_both_sizes_lie_in_one_array():
    photo = photographs(1)[0]
    for sides in ((32, 48), (48, 32)):
        found = photograph_to_pixels(photo, sides[0], TwoSides(*sides))
        assert found.shape == (2, 3, 48, 48)
        for view, side in zip(found, sides):
            assert torch.equal(view[:, :side, :side], image_to_pixels(photo, side))
            assert not view[:, side:].any() and not view[:, :, side:].any()


def levels(found, references):
    """The mean height of maps and of scores over references and their copies, each held out."""
    peaks, scores = [], []
    for index, photo in enumerate(references):
        others = [one for number, one in enumerate(references) if number != index]
        found.remember(others, false_alarm_rate=None)
        for seen in found.predict([photo, *varied(photo, 4, index)]):
            peaks.append(seen.patch_map.max())
            scores.append(seen.score)
    found.remember(references, false_alarm_rate=None)
    return np.mean(peaks), np.mean(scores)


def test_maps_and_scores_are_fused_on_one_scale(tiny_configs):
    """Each detector by itself, its held-out references, and the formula."""
    references, query = photographs(2), photographs(3, seed=9)
    pair = detector(tiny_configs, "nearest", second=SECOND)
    pair.remember(references, false_alarm_rate=None)
    maps, scores = [], []
    for first in (True, False):
        one = detector(tiny_configs, "nearest", first=first)
        peak, score = levels(one, references)
        found = one.predict(query)
        shown = torch.from_numpy(np.stack([seen.patch_map for seen in found]))[None]
        shown = F.interpolate(shown, (8, 8), mode="bilinear", align_corners=True)[0].numpy()
        values = np.array([seen.score for seen in found])
        maps.append(shown / (shown + peak))
        scores.append(values / (values + score))
    fused = pair.predict(query)
    assert np.allclose(np.stack([seen.patch_map for seen in fused]), np.mean(maps, 0), atol=1e-5)
    assert np.allclose([seen.score for seen in fused], np.mean(scores, 0), atol=1e-5)


@pytest.mark.parametrize("method", ["nearest", "subspace", "plus"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_saved_pair_gives_the_same_scores(method, count, tiny_configs, tmp_path):
    pair = detector(tiny_configs, method, second=SECOND)
    pair.remember(photographs(count), rotations=2)
    query = photographs(2, seed=4)
    expected = pair.predict(query)
    copy = pair.another()
    pair.save(tmp_path / "pair.safetensors")
    loaded = AnomalyDetector.load(tmp_path / "pair.safetensors", device="cpu")
    for other in (copy, loaded):
        for seen, wanted in zip(other.predict(query), expected):
            assert seen.score == wanted.score and np.array_equal(seen.patch_map, wanted.patch_map)
    assert loaded.threshold == pair.threshold and loaded.grid == 8
    assert loaded.config.fingerprint == pair.config.fingerprint and "+" in pair.config.fingerprint
    copy.remember(photographs(1, seed=7))
    assert pair.predict(query)[0].score == expected[0].score


def test_other_weights_of_either_are_refused(tiny_configs, tmp_path, monkeypatch):
    pair = detector(tiny_configs, "nearest", second=SECOND)
    pair.remember(photographs(1))
    pair.save(tmp_path / "pair.safetensors")
    monkeypatch.setattr("models.backbones.timm_towers.UNTRAINED_SEED", 1)
    with pytest.raises(ModelError, match="are not those that"):
        AnomalyDetector.load(tmp_path / "pair.safetensors", device="cpu")


@pytest.mark.parametrize(
    "more, words",
    [
        ({"method": "batch"}, "--second-model does not go with --method batch"),
        ({"windows": WindowConfig("nan", tiles=2)}, "--second-model does not go with --tiles"),
        ({"windows": WindowConfig("mul", 2, 2)}, "does not go with --winmode mul"),
        ({"with_batch": True}, "does not go with --with-batch"),
    ],
)
def test_what_does_not_go_with_it(more, words, tiny_configs):
    tower = {**TOWER, "model_config": tiny_configs, "device": "cpu"}
    with pytest.raises(ConfigError, match=words):
        AnomalyDetector.from_backbone(
            second=backbone_config(SECOND), **{"method": "nearest", **more}, **tower
        )


def test_all_references_alike_give_no_level(tiny_configs):
    flat = [Image.fromarray(np.full((64, 64, 3), value, np.uint8)) for value in (0, 255)]
    pair = detector(tiny_configs, "nearest", second=SECOND)
    pair.scorer.detector.lay_tiles([photo.size for photo in flat])
    with pytest.raises(ModelError, match="no level for --second-model"):
        pair.scorer.detector.second.set_levels((0.0, 1.0), (1.0, 1.0))
