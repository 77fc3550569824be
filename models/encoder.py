"""The backbone's `encode`, which can encode an image that comes again only once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor

from models.backbone import NOTHING_MORE, Backbone
from models.features import EMBEDDING, PROJECTED, RAW_TOKENS, Features
from utils.views import Views

KEPT_BYTES = 2**30


class Encoder:
    """A backbone's `encode`. `most`: bytes of features that are cached, those of the last batches; 0: none.

    The key of a batch is the digests of all its images: the last bit of an image's features may depend on the
    other images of its batch. Features that were encoded with more than is wanted are used without the rest.
    """

    def __init__(self, backbone: Backbone, most: int = 0) -> None:
        self.backbone, self.most, self.held = backbone, most, 0
        self.last: tuple[Views, Views] | None = None
        self.cached: OrderedDict[tuple, tuple[Features, frozenset[str]]] = OrderedDict()

    def __call__(self, views: Views, want: frozenset[str] = NOTHING_MORE) -> Features:
        """The features of whole images."""
        return self.crops(views, "whole", (), lambda: views.whole, want)

    def crops(
        self,
        views: Views,
        of: str,
        which: tuple[int, ...],
        cut: Callable[[], Tensor],
        want: frozenset[str],
        side: int | None = None,
    ) -> Features:
        """The features of what `cut` takes of "whole" images or of "tiles"; `which` identifies crops."""
        if not self.most:
            return self.backbone.encode(cut(), want, side)
        key = of, which, side, *views.digests(of)
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

    def moved(self, views: Views) -> Views:
        """The images on the backbone's device; while features are cached those of the last call are not moved
        again."""
        if not self.most:
            return views.moved(self.backbone.device)
        if self.last is None or self.last[0] is not views:
            self.last = views, views.moved(self.backbone.device)
        return self.last[1]

    def forget(self) -> bool:
        """Empties the cache and switches it off; False where it was empty."""
        if self.held == 0:
            return False
        self.held = self.most = 0
        self.cached.clear()
        return True


def _size(features: Features | None) -> int:
    return sum(part.nbytes for part in features or () if isinstance(part, Tensor))
