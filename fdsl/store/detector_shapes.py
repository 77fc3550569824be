"""The tensors of a saved detector. A checksum finds damage, this table what another program wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.image_statistics import PER_IMAGE

MOST = 2**31
MOST_TILES = 256  # rows or columns
MEMORIES = {"bank": "whole", "window_bank": "windows", "tile_bank": "tiles"}  # name -> that of Memories
TEST_IMAGES = "test_images"  # and the memory of mutual scoring


@dataclass(frozen=True)
class Form:
    """A tensor has one of the `shapes`, a sign for each axis: digits are lengths, and equal letters are equal
    lengths, capitals in the whole file. span: of whole numbers; None: these are floats."""

    shapes: tuple[str, ...]
    span: tuple[int, int] | None = None

    def takes(self, value: Tensor) -> bool:
        """Whether the tensor's kind and values are right."""
        if self.span is None:
            return value.is_floating_point()
        if value.dtype not in (torch.int64, torch.uint8):
            return False
        return not value.numel() or self.span[0] <= int(value.min()) <= int(value.max()) <= self.span[1]

    def fits(self, shape: Sequence[int], lengths: dict[str, int], memory: str) -> bool:
        """Whether a shape is right; what its letters stand for is noted in `lengths`."""
        signs = next((signs for signs in self.shapes if len(signs) == len(shape)), None)
        return signs is not None and all(
            length == (int(sign) if sign.isdigit() else lengths.setdefault(name, length))
            for sign, length in zip(signs, shape)
            for name in (sign if sign.isupper() else f"{memory} {sign}",)
        )


# L, C: feature layers and values of a token of the backbone; T: of text. m: tokens. K: references;
# S: statistics of each.
FORMS = {
    "mean": Form(("L1C", "C")),
    "centred": Form(("LmC",)),
    "sizes": Form(("rc",), span=(0, MOST)),
    "whitening": Form(("LCC",)),
    "directions": Form(("Cd",)),
    "keys": Form(("wk",)),
    "text.mean": Form(("11T",)),
    "text.centred": Form(("1mT",)),
    "text.sizes": Form(("rc",), span=(0, MOST)),
    "tokens": Form(("iLnC",)),
    "digests": Form(("id",), span=(0, 255)),
    "tiles": Form(("1",), span=(1, MOST_TILES**2)),
    "levels": Form(("4",)),
    "heads.directions": Form(("2T",)),
    "normal.scores": Form(("N",)),
    "normal.peaks": Form(("N",)),
    "normal.kinds": Form(("N",), span=(0, 5)),
    "normal.floor": Form(("1",)),
    "normal.prior": Form(("4",)),
    "references.sizes": Form(("K2",), span=(1, MOST)),
    "references.statistics": Form(("KS",)),
    "references.normalisation": Form(("23",)),
    "grey.range": Form(("2",)),
    "tiles.layout": Form(("2",), span=(1, MOST_TILES)),
}


def refuse_other_forms(tensors: Mapping[str, Tensor], layers: int, width: int) -> None:
    """ValueError where a tensor has not its form in FORMS, or where a memory's sizes are not those of its
    tokens. `layers`, `width`: of the backbone, L and C."""
    lengths = {"L": layers, "C": width, "S": PER_IMAGE}
    for name, value in tensors.items():
        memory, _, part = name.partition(".")
        form = FORMS.get(part if memory in (*MEMORIES, TEST_IMAGES) else name)
        if form is not None and not (form.takes(value) and form.fits(value.shape, lengths, memory)):
            raise ValueError(f"{name} has another shape or other values than a detector's")
    for memory in MEMORIES:
        for text in ("", "text."):
            sizes, tokens = (tensors.get(f"{memory}.{text}{part}") for part in ("sizes", "centred"))
            if tokens is not None and (sizes is None or not 0 < int(sizes.sum()) == tokens.shape[1]):
                raise ValueError(f"{memory}.{text}sizes are not those of its tokens")
