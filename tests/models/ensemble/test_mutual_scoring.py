"""Mutual scoring against the same arithmetic written down in NumPy, alone and beside a method."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fdsl.references.transductive import MOST, encode_test_images, sample_of
from fdsl.scoring import Scorer
from fdsl.thresholds.leave_one_out import set_scales
from models.detector import NO_WINDOWS, Detector
from models.ensemble.mutual_scoring import WithMutualScoring
from models.method import Memories
from models.methods.batch import Batch, mutual_scores
from models.methods.nearest import Nearest
from models.methods.plus import Plus
from models.views.tile_maps import join_tiles, resized, smoothed
from tests.support.photographs import texture
from tests.support.tokens import noise
from utils.config import MethodConfig, WindowConfig
from utils.errors import DataError, ModelError
from utils.views import Views

SIDE, GRID = 64, 8
EXACT = {"rel": 2e-4, "abs": 1e-6}


@pytest.fixture(scope="module")
def photos():
    return noise(6, 3, SIDE, SIDE, seed=3)


def detector_of(backbone, method=Batch, windows=NO_WINDOWS, **options):
    made = method(backbone.width, len(backbone.layers), MethodConfig(use_nam=False, **options))
    return Detector(backbone, WithMutualScoring(made) if options.get("with_batch") else made, SIDE, windows)


def tokens_of(backbone, image):
    return backbone.encode(image[None]).tokens[:, 0].double().numpy()


def surroundings_of(tokens, radius):
    """(N,C) -> each token's mean with those that lie within `radius` rows and columns, of unit length."""
    found = []
    for place in range(GRID**2):
        rows, columns = np.divmod(np.arange(GRID**2), GRID)
        near = (abs(rows - place // GRID) <= radius) & (abs(columns - place % GRID) <= radius)
        mean = tokens[near].mean(0)
        found.append(mean / np.linalg.norm(mean))
    return np.stack(found)


def expected(query, others):
    """The map (N,) of tokens (L,N,C) among the other photographs' (R,L,N,C)."""
    maps = []
    for block in range(len(query)):
        for radius in (0, 1):
            own = surroundings_of(query[block], radius)
            rows = [(1 - (own @ surroundings_of(other[block], radius).T).max(1)) / 2 for other in others]
            lowest = np.sort(rows, axis=0)[: math.ceil(0.3 * len(rows))]
            maps.append(lowest.mean(0))
    return np.mean(maps, 0)


def with_test_images(detector, photos):
    detector.take_test_images(map(Views, photos.split(2)), len(photos))
    return detector


def test_the_map_is_that_of_the_formula_without_the_photograph_itself(tiny_backbone, photos):
    detector = with_test_images(detector_of(tiny_backbone), photos)
    found = detector(photos)
    tokens = np.stack([tokens_of(tiny_backbone, photo) for photo in photos])
    for number in range(len(photos)):
        shown = expected(tokens[number], np.delete(tokens, number, axis=0))
        assert found.base[number].flatten().numpy() == pytest.approx(shown, **EXACT)
        assert float(found.base_score[number]) == pytest.approx(shown.max(), **EXACT)


def test_a_photograph_that_was_not_shown_is_compared_with_all(tiny_backbone, photos):
    found = with_test_images(detector_of(tiny_backbone), photos[:4])(photos[5:])
    tokens = np.stack([tokens_of(tiny_backbone, photo) for photo in photos])
    assert found.base[0].flatten().numpy() == pytest.approx(expected(tokens[5], tokens[:4]), **EXACT)


def test_tiles_are_compared_with_the_others_tiles(tiny_backbone, photos):
    detector = detector_of(tiny_backbone, windows=WindowConfig("nan", tiles=2))
    detector.lay_tiles([(128, 128)])
    tiles = len(detector.layout)
    views = noise(4, 1 + tiles, 3, SIDE, SIDE, seed=7)
    images = Views(views[:, 0], views[:, 1:])
    detector.take_test_images(iter(images.split(3)), 4)
    tokens = np.stack([[tokens_of(tiny_backbone, tile) for tile in view[1:]] for view in views])  # R T L N C
    for number in range(2):
        others = [place for place in range(4) if place != number]
        maps = []
        for block in range(tokens.shape[2]):
            for radius in (0, 1):
                averaged = np.stack(
                    [
                        np.concatenate([surroundings_of(tile[block], radius) for tile in tokens[place]])
                        for place in range(4)
                    ]
                )
                rows = [(1 - (averaged[number] @ averaged[place].T).max(1)) / 2 for place in others]
                maps.append(np.sort(rows, axis=0)[: math.ceil(0.3 * len(rows))].mean(0))
        expected_raw = torch.from_numpy(np.mean(maps, 0)).float()
        joined = join_tiles(expected_raw[None], detector.layout)
        side = detector.side
        whole = expected(tokens_of(tiny_backbone, views[number, 0]), np.stack(
            [tokens_of(tiny_backbone, views[place, 0]) for place in others]))  # fmt: skip
        whole = resized(torch.from_numpy(whole).float().view(1, GRID, GRID), side)
        shown = (whole + smoothed(resized(joined, side), 1.0))[0] / 2
        found = detector(images[number : number + 1])
        assert found.base[0].flatten().numpy() == pytest.approx(shown.flatten().numpy(), **EXACT)


class Counted:
    """A backbone's `encode` that knows how many images it was given."""

    def __init__(self, backbone, monkeypatch):
        self.images, encode = 0, backbone.encode

        def counted(images, want=frozenset(), side=None):
            self.images += len(images)
            return encode(images, want, side)

        monkeypatch.setattr(backbone, "encode", counted)


def test_what_it_was_shown_is_encoded_once(tiny_backbone, photos, monkeypatch):
    plain = with_test_images(detector_of(tiny_backbone), photos[:4])
    known = plain.memories.whole
    plain.memories = Memories(replace(known, digests=known.digests[:0]))
    detector = with_test_images(detector_of(tiny_backbone), photos[:4])
    counted = Counted(tiny_backbone, monkeypatch)
    mixed = photos[[5, 2, 4, 0]]
    found = detector(mixed)
    assert counted.images == 2
    expected = plain(mixed)
    assert counted.images == 6
    assert torch.allclose(found.base, expected.base, atol=1e-6)
    assert torch.allclose(found.base_score, expected.base_score, atol=1e-6)


@pytest.mark.parametrize("with_batch", [False, True])
def test_what_it_was_shown_is_compared_once(tiny_backbone, photos, monkeypatch, with_batch):
    asked = []

    def counted(tokens, memory):
        asked.append(tokens.shape[1])
        return mutual_scores(tokens, memory)

    monkeypatch.setattr("models.methods.batch.mutual_scores", counted)
    detector = detector_of(tiny_backbone, Nearest if with_batch else Batch, with_batch=with_batch)
    with_test_images(detector, photos[:4])
    if with_batch:
        detector.fit(photos[4:])
        detector.method.set_own_scales(0.2, 0.3)
    first = detector(photos[:4])
    assert sum(asked) == 4
    again = detector(photos[:4])
    assert torch.equal(first.base, again.base) and torch.equal(first.base_score, again.base_score)
    assert sum(asked) == 4
    detector(photos[3:5])
    assert sum(asked) == 5


def test_tokens_of_test_images_serve_a_method_with_references_too(tiny_backbone, photos, monkeypatch):
    counted = Counted(tiny_backbone, monkeypatch)
    detector = with_test_images(detector_of(tiny_backbone, Nearest, with_batch=True), photos[:4])
    detector.fit(photos[4:])
    before = counted.images
    detector(photos[:4])
    assert counted.images == before and detector.method.test_images.memory.tokens.dtype == torch.float32


def test_a_photograph_that_is_there_twice_does_not_speak_for_itself(tiny_backbone, photos):
    twice = torch.cat([photos, photos[:1]])
    once = with_test_images(detector_of(tiny_backbone), photos)(photos[:1]).base
    assert torch.allclose(
        with_test_images(detector_of(tiny_backbone), twice)(photos[:1]).base, once, atol=1e-6
    )


def test_a_single_photograph_is_refused(tiny_backbone, photos):
    with pytest.raises(ModelError, match="no 2 different ones"):
        with_test_images(detector_of(tiny_backbone), torch.cat([photos[:1]] * 2))(photos[:1])
    with pytest.raises(DataError, match="give 2 or more"):
        encode_test_images(Scorer(detector_of(tiny_backbone)), iter(()), 1)
    with pytest.raises(ModelError, match=r"take_test_images\(\) first"):
        detector_of(tiny_backbone)(photos[:1])


def test_of_many_photographs_some_stand_for_all_always_the_same():
    assert sample_of(range(MOST)) == list(range(MOST))
    drawn = sample_of(range(1000))
    assert len(set(drawn)) == MOST and drawn == sorted(drawn) == sample_of(range(1000))


@pytest.mark.parametrize("windows", [NO_WINDOWS, WindowConfig("mul", 4, 4), WindowConfig("nan", tiles=2)])
@pytest.mark.parametrize("method", [Nearest, Plus])
def test_beside_a_method_both_count_alike_on_one_scale(tiny_backbone, method, windows):
    photographs = [Image.fromarray(texture(number, height=160, width=160)) for number in range(6)]
    plain = Scorer(detector_of(tiny_backbone, method, windows))
    beside = Scorer(detector_of(tiny_backbone, method, windows, with_batch=True))
    encode_test_images(beside, photographs[2:], 4)
    for scorer in (plain, beside):
        scorer.detector.lay_tiles([photographs[0].size])
        scorer.fit(scorer.to_batch(photographs[:2]))
    names = ["a", "b", "c", "d"]
    pixels = plain.to_batch(photographs[2:])
    before = beside(pixels, names)
    assert np.array_equal(before.base, plain(pixels, names).base)  # nothing to measure by, as yet
    set_scales(beside, photographs[:2])
    found = beside(pixels, names)
    alone = Scorer(detector_of(tiny_backbone))
    encode_test_images(alone, photographs[2:], 4)
    mutual = alone(alone.to_batch(photographs[2:]), names)
    own_map, own_score = beside.detector.method.own_scales
    expected_score = [
        (own / (own + own_score) + other / (other + np.median(mutual.base_score))) / 2
        for own, other in zip(before.base_score, mutual.base_score)
    ]
    assert found.base_score == pytest.approx(expected_score, rel=1e-4)
    level = np.median(mutual.base.max((1, 2)))
    shown = resized(torch.from_numpy(mutual.base), before.base.shape[-1]).numpy()
    for own, both in ((before.base, found.base), (before.window, found.window)):
        assert (own is None) == (both is None)
        if own is not None:
            expected_map = (own / (own + own_map) + shown / (shown + level)) / 2
            assert both == pytest.approx(expected_map, rel=1e-4)
    assert all((part >= 0).all() and (part < 1).all() for part in found.arrays)
