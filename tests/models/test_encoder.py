"""Batches that come again are encoded once, and nothing changes by it."""

import numpy as np
import torch
from PIL import Image

from fdsl.api import AnomalyDetector
from models import encoder
from models.encoder import Encoder
from models.features import EMBEDDING, RAW_TOKENS, views_of
from tests.support.predictions import BACKBONE_OPTIONS
from tests.support.tokens import noise

MOST = 2**30  # bytes


def test_a_batch_is_known_by_all_its_values(tiny_backbone, monkeypatch):
    asked, plain = [], tiny_backbone.encode

    def encode(images, want=frozenset(), side=None):
        asked.append((images.shape, want))
        return plain(images, want, side)

    monkeypatch.setattr(tiny_backbone, "encode", encode)
    once = Encoder(tiny_backbone, MOST)
    images = noise(2, 3, 32, 32)
    first = once(images)
    assert once(images.clone()).tokens is first.tokens and len(asked) == 1
    assert once(images, frozenset({RAW_TOKENS})).raw_tokens is not None and len(asked) == 2
    assert once(images, frozenset({EMBEDDING})).embedding is not None and len(asked) == 3
    other = images.clone()
    other[1, 2, 31, 31] ^= 1
    assert not torch.equal(once(other).tokens, first.tokens)
    assert once(images[:1]).tokens.shape[1] == 1 and len(asked) == 5
    assert once(images, side=16).tokens.shape[2] == 4 and len(asked) == 6


def test_the_tensor_that_came_last_is_not_looked_at_again(tiny_backbone, monkeypatch):
    looked, digest = [], encoder._digest
    monkeypatch.setattr(encoder, "_digest", lambda images: looked.append(images) or digest(images))
    once = Encoder(tiny_backbone, MOST)
    pixels = noise(2, 3, 3, 32, 32)
    there = once.moved(pixels)
    assert len(looked) == 6 and once.moved(pixels) is there
    assert once(there[:, 0]).tokens is once(there[:, 0]).tokens and len(looked) == 6
    assert not torch.equal(once(255 - pixels[:, 0]).tokens, once(there[:, 0]).tokens) and len(looked) == 8


def test_images_with_masks_are_looked_at_once_too(tiny_backbone, monkeypatch):
    looked, digest = [], encoder._digest
    monkeypatch.setattr(encoder, "_digest", lambda images: looked.append(images) or digest(images))
    once = Encoder(tiny_backbone, MOST)
    there = views_of(once.moved(noise(2, 3, 4, 32, 32)))
    once(there.whole)
    once.crops(there.tiles, (), lambda: there.tiles.flatten(0, 1), frozenset())
    assert len(looked) == 6


def test_windows_are_known_without_being_cut(tiny_backbone):
    once, image, cut = Encoder(tiny_backbone, MOST), noise(3, 32, 32), []

    def of(image, *which):
        return once.crops(
            image, which, lambda: cut.append(which) or image[None, :, : 8 * which[0], :16], frozenset()
        )

    first = of(image, 2, 0).tokens
    assert torch.equal(first, tiny_backbone.encode(image[None, :, :16, :16]).tokens)
    assert of(image.clone(), 2, 0).tokens is first and cut == [(2, 0)]
    assert not torch.equal(of(255 - image, 2, 0).tokens, first) and len(cut) == 2
    assert of(image, 2, 1).tokens is not first and len(cut) == 3


def test_what_it_holds_is_forgotten_where_memory_is_short(tiny_backbone):
    once = Encoder(tiny_backbone, MOST)
    assert not once.forget()
    once(noise(1, 3, 32, 32))
    assert once.forget() and not once.forget() and not once.cached
    once(noise(1, 3, 32, 32))
    assert not once.forget() and not once.cached  # else work that never fits would be tried for ever


def test_no_more_is_kept_than_may_be(tiny_backbone):
    images = noise(5, 1, 3, 32, 32)
    size = tiny_backbone.encode(images[0]).tokens.numel() * 4
    once = Encoder(tiny_backbone, most=2 * size)
    for image in images:
        once(image)
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
