"""Images that come again while references are learnt are encoded once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from models.backbone import NOTHING_MORE
from models.features import EMBEDDING, PROJECTED, RAW_TOKENS, Features

Encode = Callable[..., Features]
KEPT_BYTES = 2**30


class EncodedOnce:
    """`encode` of a backbone, with what it gave for the last batches, up to `most` bytes of it.

    A batch is known again by its values as a whole: what one image gets may depend, in its last bit, on the
    images beside it. What was encoded with more than is wanted serves too, without the rest. The very tensor
    that came last, which nobody changes, is not looked at again.
    """

    def __init__(self, encode: Encode, most: int = KEPT_BYTES) -> None:
        self.encode, self.most, self.held = encode, most, 0
        self.last: tuple[Tensor, bytes] | None = None
        self.known: OrderedDict[tuple[bytes, int | None], tuple[Features, frozenset[str]]] = OrderedDict()

    def __call__(
        self, pixels: Tensor, want: frozenset[str] = NOTHING_MORE, side: int | None = None
    ) -> Features:
        """As the backbone's own."""
        key = self._digest(pixels), side
        found, held = self.known.pop(key, (None, NOTHING_MORE))
        if found is None or not want <= held:
            self.held -= _size(found)
            held = want | held
            found = self.encode(pixels, held, side)
            self.held += _size(found)
        self.known[key] = found, held
        while self.held > self.most:
            _, (oldest, _) = self.known.popitem(last=False)
            self.held -= _size(oldest)
        return _only(found, want)

    def _digest(self, pixels: Tensor) -> bytes:
        if self.last is None or self.last[0] is not pixels:
            self.last = pixels, _digest(pixels)
        return self.last[1]


def _only(features: Features, want: frozenset[str]) -> Features:
    """The features without what nobody asked for."""
    return features._replace(
        embedding=features.embedding if EMBEDDING in want else None,
        raw_tokens=features.raw_tokens if RAW_TOKENS in want else None,
        projected=features.projected if PROJECTED in want else None,
    )


def _digest(pixels: Tensor) -> bytes:
    values = pixels.cpu().contiguous().numpy().data
    about = f"{tuple(pixels.shape)}".encode()
    return hashlib.blake2b(values, key=hashlib.blake2b(about).digest(), digest_size=20).digest()


def _size(features: Features | None) -> int:
    if features is None:
        return 0
    parts = (features.tokens, features.embedding, features.raw_tokens, features.projected)
    return sum(part.numel() * part.element_size() for part in parts if part is not None)
