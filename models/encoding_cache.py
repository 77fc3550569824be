"""Encodes an image that comes again during a fit only once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.backbone import NOTHING_MORE, Backbone
from models.features import CHANNELS, EMBEDDING, PROJECTED, RAW_TOKENS, Features
from utils.device import sent

Encode = Callable[..., Features]
KEPT_BYTES = 2**30


class EncodedOnce:
    """`encode` of a backbone, with a cache of the features of the last batches, `most` bytes at most.

    The key of a batch is the digest of all its values: the last bit of an image's features may depend on the
    other images of its batch. Features that were encoded with more than is wanted are used without the rest.
    The key of windows is their image's digest and their numbers. The tensor that was `moved` last does not
    change, so its digest is computed once.
    """

    def __init__(self, encode: Encode, most: int = KEPT_BYTES) -> None:
        self.encode, self.most, self.held = encode, most, 0
        self.last: tuple[Tensor, Tensor] | None = None
        self.digests: dict[tuple, bytes] = {}  # of the images `moved` last, by their place in memory
        self.cached: OrderedDict[tuple, tuple[Features, frozenset[str]]] = OrderedDict()

    def __call__(
        self, pixels: Tensor, want: frozenset[str] = NOTHING_MORE, side: int | None = None
    ) -> Features:
        """As the backbone's own."""
        return self._once((self.digest(pixels), side), lambda: pixels, want, side)

    def of(
        self,
        images: Tensor,
        which: tuple[int, ...],
        pixels: Callable[[], Tensor],
        want: frozenset[str],
        side: int | None = None,
    ) -> Features:
        """The features of the crops that `pixels` cuts out of images (...,3,H,W); `which` identifies them."""
        return self._once((self.digest(images), which, side), pixels, want, side)

    def moved(self, images: Tensor, device: torch.device) -> Tensor:
        """The images on the device; the tensor of the last call is not moved again. Their digests are
        computed on the device that they come from."""
        if self.last is None or self.last[0] is not images:
            there = sent(images, device)
            seen = (whole.flatten(0, -4)[:, :CHANNELS] for whole in (images, there))  # without their masks
            pairs = zip(*seen)
            self.digests = {_place(moved): _digest(image) for image, moved in pairs}
            self.last = images, there
        return self.last[1]

    def forget(self) -> bool:
        """Empties the cache and switches it off; False where it was empty."""
        if self.held == 0:
            return False
        self.held = self.most = 0
        self.cached.clear()
        return True

    def digest(self, pixels: Tensor) -> bytes:
        """The digest of images (...,3,H,W)."""
        if pixels.dim() > 3:
            return b"".join(map(self.digest, pixels))
        return self.digests.get(_place(pixels)) or _digest(pixels)

    def _once(
        self, key: tuple, pixels: Callable[[], Tensor], want: frozenset[str], side: int | None
    ) -> Features:
        features, has = self.cached.pop(key, (None, NOTHING_MORE))
        if features is None or not want <= has:
            self.held -= _size(features)
            has = want | has
            features = self.encode(pixels(), has, side)
            self.held += _size(features)
        self.cached[key] = features, has
        while self.held > self.most:
            _, (oldest, _) = self.cached.popitem(last=False)
            self.held -= _size(oldest)
        return _only(features, want)


class Encoder(NamedTuple):
    """`encode` of a backbone; with `once` an image that comes again is encoded once."""

    backbone: Backbone
    once: EncodedOnce | None = None

    def __call__(
        self, pixels: Tensor, want: frozenset[str] = NOTHING_MORE, side: int | None = None
    ) -> Features:
        """As the backbone's own."""
        return (self.once or self.backbone.encode)(pixels, want, side)

    def crops(
        self,
        images: Tensor,
        which: tuple[int, ...],
        cut: Callable[[], Tensor],
        want: frozenset[str],
        side: int | None = None,
    ) -> Features:
        """The features of the crops that `cut` takes out of images (...,3,H,W); `which` identifies them."""
        if self.once is None:
            return self(cut(), want, side)
        return self.once.of(images, which, cut, want, side)

    def moved(self, images: Tensor) -> Tensor:
        """The images on the backbone's device."""
        device = self.backbone.device
        if self.once is not None:
            return self.once.moved(images, device)
        return sent(images, device)


def _only(features: Features, want: frozenset[str]) -> Features:
    """The features without what nobody asked for."""
    return features._replace(
        embedding=features.embedding if EMBEDDING in want else None,
        raw_tokens=features.raw_tokens if RAW_TOKENS in want else None,
        projected=features.projected if PROJECTED in want else None,
    )


def _place(image: Tensor) -> tuple:
    return image.data_ptr(), image.shape, image.stride()


def _digest(image: Tensor) -> bytes:
    values = image.cpu().contiguous().numpy().data
    about = f"{tuple(image.shape)}".encode()
    return hashlib.blake2b(values, key=hashlib.blake2b(about).digest(), digest_size=20).digest()


def _size(features: Features | None) -> int:
    if features is None:
        return 0
    parts = (features.tokens, features.embedding, features.raw_tokens, features.projected)
    return sum(part.numel() * part.element_size() for part in parts if part is not None)
