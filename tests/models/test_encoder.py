"""Batches that come again are encoded once, and nothing changes by it."""

import numpy as np
import torch
from PIL import Image

from fdsl.api import AnomalyDetector
from models.encoder import Encoder
from models.features import EMBEDDING, RAW_TOKENS
from tests.support.predictions import BACKBONE_OPTIONS
from tests.support.tokens import noise
from utils.views import Views

MOST = 2**30  # bytes


def test_a_batch_is_known_by_all_its_values(tiny_backbone, monkeypatch):
    asked, plain = [], tiny_backbone.encode

    def encode(images, want=frozenset(), side=None):
        asked.append((images.shape, want))
        return plain(images, want, side)

    monkeypatch.setattr(tiny_backbone, "encode", encode)
    once = Encoder(tiny_backbone, MOST)
    images = noise(2, 3, 32, 32)
    first = once(Views(images))
    assert once(Views(images.clone())).tokens is first.tokens and len(asked) == 1
    assert once(Views(images), frozenset({RAW_TOKENS})).raw_tokens is not None and len(asked) == 2
    assert once(Views(images), frozenset({EMBEDDING})).embedding is not None and len(asked) == 3
    other = images.clone()
    other[1, 2, 31, 31] ^= 1
    assert not torch.equal(once(Views(other)).tokens, first.tokens)
    assert once(Views(images[:1])).tokens.shape[1] == 1 and len(asked) == 5
    of_half = once.crops(Views(images), "whole", (), lambda: images, frozenset(), side=16)
    assert of_half.tokens.shape[2] == 4 and len(asked) == 6
    of_tiles = once.crops(Views(images, images[:, None]), "tiles", (), lambda: other, frozenset())
    assert not torch.equal(of_tiles.tokens, first.tokens) and len(asked) == 7


def test_images_that_came_last_are_not_looked_at_again(tiny_backbone, monkeypatch):
    looked, numpy = [], torch.Tensor.numpy
    monkeypatch.setattr(torch.Tensor, "numpy", lambda image: looked.append(image) or numpy(image))
    once = Encoder(tiny_backbone, MOST)
    pixels = noise(2, 3, 3, 32, 32)
    images = Views(pixels[:, 0], pixels[:, 1:], torch.zeros(2, 32, 32, dtype=torch.uint8))
    there = once.moved(images)
    assert once.moved(images) is there and once(there).tokens is once(there).tokens and len(looked) == 2
    once.crops(there, "tiles", (), lambda: there.tiles.flatten(0, 1), frozenset())
    once.crops(there[1:], "whole", (2,), lambda: there.whole[1:, :, :16, :16], frozenset())
    assert len(looked) == 4
    assert not torch.equal(once(Views(255 - pixels[:, 0])).tokens, once(there).tokens) and len(looked) == 6


def test_windows_are_known_without_being_cut(tiny_backbone):
    once, image, cut = Encoder(tiny_backbone, MOST), noise(3, 32, 32), []

    def of(image, *which):
        return once.crops(
            Views(image[None]),
            "whole",
            which,
            lambda: cut.append(which) or image[None, :, : 8 * which[0], :16],
            frozenset(),
        )

    first = of(image, 2, 0).tokens
    assert torch.equal(first, tiny_backbone.encode(image[None, :, :16, :16]).tokens)
    assert of(image.clone(), 2, 0).tokens is first and cut == [(2, 0)]
    assert not torch.equal(of(255 - image, 2, 0).tokens, first) and len(cut) == 2
    assert of(image, 2, 1).tokens is not first and len(cut) == 3


def test_what_it_holds_is_forgotten_where_memory_is_short(tiny_backbone):
    once = Encoder(tiny_backbone, MOST)
    assert not once.forget()
    once(Views(noise(1, 3, 32, 32)))
    assert once.forget() and not once.forget() and not once.cached
    once(Views(noise(1, 3, 32, 32)))
    assert not once.forget() and not once.cached  # else work that never fits would be tried for ever


def test_no_more_is_kept_than_may_be(tiny_backbone):
    images = noise(5, 1, 3, 32, 32)
    size = tiny_backbone.encode(images[0]).tokens.numel() * 4
    once = Encoder(tiny_backbone, most=2 * size)
    for image in images:
        once(Views(image))
        assert once.held == sum(part.tokens.numel() * 4 for part, _ in once.cached.values()) <= 2 * size
    assert len(once.cached) == 2


def test_learning_takes_fewer_passes_and_gives_the_same_bits(tiny_configs, monkeypatch):
    """One reference is compared with itself twice; windows too."""
    noise = np.random.default_rng(3)
    photo = [Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8))]

    def fitted(at_most):
        made = AnomalyDetector.from_backbone(
            winmode="mul",
            win_size=4,
            win_stride=2,
            model_config=tiny_configs,
            device="cpu",
            precision="fp32",
            **BACKBONE_OPTIONS,
        )
        passes, encode = [], made.backbone.encode
        monkeypatch.setattr(
            made.backbone,
            "encode",
            lambda images, want, side: passes.append(len(images)) or encode(images, want, side),
        )
        monkeypatch.setattr("models.detector.KEPT_BYTES", at_most)
        made.fit(photo, rotations=1)
        assert not made.scorer.detector.encode.most
        return sum(passes), made

    (often, plain), (seldom, once) = fitted(0), fitted(2**30)
    assert seldom < 0.7 * often and once.threshold == plain.threshold
    assert all(torch.equal(value, once.tensors()[name]) for name, value in plain.tensors().items())
