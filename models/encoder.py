"""The backbone's `encode`, which can encode an image that comes again only once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor

from models.backbone import NOTHING_MORE, Backbone
from models.features import CHANNELS, EMBEDDING, PROJECTED, RAW_TOKENS, Features
from utils.device import sent

KEPT_BYTES = 2**30


class Encoder:
    """A backbone's `encode`. `most`: bytes of features that are cached, those of the last batches; 0: none.

    The key of a batch is the digest of all its values: the last bit of an image's features may depend on the
    other images of its batch. Features that were encoded with more than is wanted are used without the rest.
    The key of crops is their images' digest and what identifies them. The tensor that was `moved` last does
    not change, so its digest is computed once.
    """

    def __init__(self, backbone: Backbone, most: int = 0) -> None:
        self.backbone, self.most, self.held = backbone, most, 0
        self.last: tuple[Tensor, Tensor] | None = None
        self.digests: dict[tuple, bytes] = {}  # of the images `moved` last, by their place in memory
        self.cached: OrderedDict[tuple, tuple[Features, frozenset[str]]] = OrderedDict()

    def __call__(
        self, pixels: Tensor, want: frozenset[str] = NOTHING_MORE, side: int | None = None
    ) -> Features:
        """As the backbone's own."""
        return self.crops(pixels, (), lambda: pixels, want, side)

    def crops(
        self,
        images: Tensor,
        which: tuple[int, ...],
        cut: Callable[[], Tensor],
        want: frozenset[str],
        side: int | None = None,
    ) -> Features:
        """The features of the crops that `cut` takes out of images (...,3,H,W); `which` identifies them."""
        if not self.most:
            return self.backbone.encode(cut(), want, side)
        key = self.digest(images), which, side
        features, has = self.cached.pop(key, (None, NOTHING_MORE))
        if features is None or not want <= has:
            self.held -= _size(features)
            has = want | has
            features = self.backbone.encode(cut(), has, side)
            self.held += _size(features)
        self.cached[key] = features, has
        while self.held > self.most:
            _, (oldest, _) = self.cached.popitem(last=False)
            self.held -= _size(oldest)
        unwanted: dict[str, Any] = dict.fromkeys({EMBEDDING, RAW_TOKENS, PROJECTED} - want)
        return features._replace(**unwanted)

    def moved(self, images: Tensor) -> Tensor:
        """The images on the backbone's device; while features are cached the tensor of the last call is not
        moved again, and its digests are computed on the device that it comes from."""
        if not self.most:
            return sent(images, self.backbone.device)
        if self.last is None or self.last[0] is not images:
            there = sent(images, self.backbone.device)
            seen = (whole.flatten(0, -4)[:, :CHANNELS] for whole in (images, there))  # without their masks
            self.digests = {_place(moved): _digest(image) for image, moved in zip(*seen)}
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


def _place(image: Tensor) -> tuple:
    return image.data_ptr(), image.shape, image.stride()


def _digest(image: Tensor) -> bytes:
    values = image.cpu().contiguous().numpy().data
    about = f"{tuple(image.shape)}".encode()
    return hashlib.blake2b(values, key=hashlib.blake2b(about).digest(), digest_size=20).digest()


def _size(features: Features | None) -> int:
    return sum(part.nbytes for part in features or () if isinstance(part, Tensor))
