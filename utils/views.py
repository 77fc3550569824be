"""What a detector takes of photographs: whole images, their tiles, and their masks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from utils.device import sent

DIGEST = 20  # bytes


@dataclass(frozen=True, eq=False)
class Views:
    """B photographs as a detector takes them, uint8: the whole images (B,3,S,S) and, where there are some,
    their T tiles (B,T,3,S,S) and their own masks `roi` (B,S,S), 255 where an image is evaluated.

    source: the same before they were moved to a device; None: they were not.
    """

    whole: Tensor
    tiles: Tensor | None = None
    roi: Tensor | None = None
    source: Views | None = None
    _digests: dict[str, list[bytes]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, rows: slice | Sequence[int]) -> Views:
        """Those of some photographs."""
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows
        known = {name: [every[number] for number in numbers] for name, every in self._digests.items()}
        source = None if self.source is None else self.source[rows]
        return Views(*self._each(lambda values: values[rows]), source, known)

    @property
    def tile_count(self) -> int:
        """Tiles of each photograph."""
        return 0 if self.tiles is None else self.tiles.shape[1]

    def split(self, size: int) -> list[Views]:
        """Parts of `size` photographs, the last may be smaller."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def moved(self, device: torch.device) -> Views:
        """The same on a device."""
        return Views(*self._each(lambda values: sent(values, device)), self)

    def pin_memory(self) -> Views:
        """The same in memory that a GPU reads; DataLoader calls it."""
        return Views(*self._each(Tensor.pin_memory))

    def digests(self, name: str = "whole") -> list[bytes]:
        """What identifies each photograph by its whole image, or by its "tiles": computed once, where the
        images lay first."""
        if self.source is not None:
            return self.source.digests(name)
        if name not in self._digests:
            images = (image.cpu().contiguous().numpy().data for image in getattr(self, name))
            self._digests[name] = [hashlib.blake2b(image, digest_size=DIGEST).digest() for image in images]
        return self._digests[name]

    @classmethod
    def joined(cls, parts: Sequence[Views]) -> Views:
        """Several, one after the other: all with tiles and masks, or none."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((part.whole, part.tiles, part.roi) for part in parts))
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))

    @classmethod
    def of(cls, images: Views | Tensor) -> Views:
        """Views as they are; a tensor (B,3,S,S) as whole images alone."""
        return cls(images) if isinstance(images, Tensor) else images

    def _each(self, function: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
        return [None if one is None else function(one) for one in (self.whole, self.tiles, self.roi)]
