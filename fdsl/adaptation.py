"""Defects drawn on the references teach a method how much each of its maps of tiles counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from data.images import image_to_pixels
from data.records import stable_seed
from data.synthetic import draw_defect
from data.variants import varied
from fdsl.scoring import Scorer
from utils.log import progress
from utils.tile_layout import TileLayout

DRAWN = 16  # photographs with a drawn defect


class Drawn(NamedTuple):
    """A varied copy of a reference with a drawn defect, and where that is (S,S), 0 and 1."""

    photograph: Image.Image
    mask: Tensor


def adapt_to(scorer: Scorer, photographs: Sequence[Image.Image]) -> None:
    """Teaches the detector's method by DRAWN defects on its references, which it remembers; nothing is done
    for one that is not to be adapted, or that looks at no tiles. Raises NotFinite.

    The defects are drawn on slightly varied copies, which differ from the references about as another
    photograph of a good part does where the camera stands still. Turned copies were tried in their place,
    and misled: the first blocks of a backbone tell where a patch lies.
    """
    detector = scorer.detector
    if not detector.method.options.adapt or not isinstance(detector.layout, TileLayout):
        return
    side = max(detector.layout.width, detector.layout.height) * detector.layout.patch_size
    found, masks = [], []
    for one in progress(draw_on(photographs, side), DRAWN, "defects drawn on the references"):
        found.append(scorer.tile_maps(scorer.to_batch([one.photograph]), "a reference"))
        masks.append(one.mask)
    detector.method.adapt(found, torch.stack(masks), detector.side)


def draw_on(photographs: Sequence[Image.Image], side: int) -> Iterator[Drawn]:
    """DRAWN varied copies of the references in turn, squashed to `side` pixels, with a defect each, which is
    filled from the next reference or the same; always alike."""
    generator, count = torch.Generator().manual_seed(stable_seed("adapt")), len(photographs)
    for number in range(DRAWN):
        (copy,) = varied(photographs[number % count], 1, number)
        foreign = image_to_pixels(photographs[(number + 1) % count], side)
        pixels, mask = draw_defect(image_to_pixels(copy, side), foreign, generator)
        yield Drawn(Image.fromarray(pixels.permute(1, 2, 0).numpy()), mask[0])
