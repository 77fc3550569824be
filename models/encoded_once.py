"""Images that come again while references are learnt are encoded once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from models.backbone import NOTHING_MORE
from models.features import Features

Encode = Callable[..., Features]
KEPT_BYTES = 2**30


class EncodedOnce:
    """`encode` of a backbone, with what it gave for the last batches, up to `most` bytes of it.

    A batch is known again by its values as a whole: what one image gets may depend, in its last bit, on the
    images beside it.
    """

    def __init__(self, encode: Encode, most: int = KEPT_BYTES) -> None:
        self.encode, self.most, self.held = encode, most, 0
        self.known: OrderedDict[bytes, Features] = OrderedDict()

    def __call__(self, images: Tensor, want: frozenset[str] = NOTHING_MORE) -> Features:
        """As the backbone's own."""
        key = _digest(images, want)
        if key in self.known:
            self.known.move_to_end(key)
            return self.known[key]
        found = self.encode(images, want)
        self.known[key] = found
        self.held += _size(found)
        while self.held > self.most:
            _, oldest = self.known.popitem(last=False)
            self.held -= _size(oldest)
        return found


def _digest(images: Tensor, want: frozenset[str]) -> bytes:
    values = images.detach().cpu().contiguous().numpy()
    about = f"{tuple(images.shape)} {sorted(want)}".encode()
    return hashlib.blake2b(values.tobytes(), key=hashlib.blake2b(about).digest(), digest_size=20).digest()


def _size(features: Features) -> int:
    parts = (features.tokens, features.embedding, features.raw_tokens)
    return sum(part.numel() * part.element_size() for part in parts if part is not None)
