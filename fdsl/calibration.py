"""References scored as photographs that their detector does not know: a threshold, and the scale of method
both, rest on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.images import image_to_tensor
from data.variants import rotated_places, varied
from fdsl.thresholds import COPY, HELD_OUT, KIND, STRICT
from models.detector import Detection, Detector
from models.held_out import detect_elsewhere, left_out
from models.methods.both import BothHeads
from utils.errors import ModelError
from utils.memory import Halving

BATCH = 4
COPIES, SINGLE_COPIES = 4, 8  # varied copies of each reference; of one that stands alone


class NotFinite(ModelError):
    """A map that is not finite."""


class Scorer:
    """Calls a detector with as many images at once as memory holds, and gives finite NumPy arrays."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        more = dict(join=_joined, smaller=lambda: detector.halve_windows())
        self._detect = Halving(lambda images: _to_numpy(detector(images)), **more)
        self._detect_elsewhere = Halving(
            lambda images, places: _to_numpy(detect_elsewhere(detector, images, places)), **more
        )

    def __call__(self, batch: Tensor, names: Sequence[str]) -> Detection:
        """What the detector says of images (B,3,S,S); NotFinite calls them by their `names`."""
        return self._finite(self._detect(batch), names)

    def as_unknown(
        self, photographs: Sequence[Image.Image], rotations: int = 1
    ) -> Iterator[tuple[Detection, list[int]]]:
        """The references and slightly varied copies, scored as photographs that the detector does not know.

        The detector remembers `photographs`, each with its `rotations`. Yields batches with what each image
        is: HELD_OUT, COPY, KIND or STRICT (utils/decision.py). Raises NotFinite.
        """
        for part, kinds in self._scored(photographs, rotations):
            yield self._finite(part, ["a reference"] * len(kinds)), kinds

    def level_methods(self, photographs: Sequence[Image.Image], rotations: int = 1) -> None:
        """Method both: brings heads and distance to one scale by the mean height that held-out references
        reach."""
        both: BothHeads = self.detector.heads
        try:
            peaks = []
            for self.detector.heads in (both.trained, both.distance):
                found = [part.base.max((1, 2)) for part, _ in self.as_unknown(photographs, rotations)]
                peaks.append(float(np.concatenate(found).mean()))
        finally:
            self.detector.heads = both
        both.set_levels(*peaks)

    def _scored(
        self, photographs: Sequence[Image.Image], rotations: int
    ) -> Iterator[tuple[Detection, list[int]]]:
        known = self.detector.bank is not None
        one = len(photographs) == 1 and known
        places = torch.from_numpy(rotated_places(photographs[0].size, rotations, self.detector.grid))
        for index, photo in enumerate(photographs):
            copies = list(varied(photo, SINGLE_COPIES if one else COPIES, index))
            if one:
                for part in to_batch(copies, self.detector.image_size).split(BATCH):
                    yield self._detect(part), [KIND] * len(part)
                    yield self._detect_elsewhere(part, places.float()), [STRICT] * len(part)
                continue
            with left_out(self.detector, index, len(photographs)) if known else nullcontext():
                found = [
                    self._detect(part)
                    for part in to_batch([photo, *copies], self.detector.image_size).split(BATCH)
                ]
            kinds = [HELD_OUT] + [COPY] * len(copies)
            for part in found:
                yield part, [kinds.pop(0) for _ in part.base]

    def _finite(self, found: Detection, names: Sequence[str]) -> Detection:
        for index, name in enumerate(names):
            if not all(part is None or np.isfinite(part[index]).all() for part in found):
                precision = str(self.detector.backbone.dtype).removeprefix("torch.")
                cure = (
                    "check the photograph and the heads"
                    if precision == "float32"
                    else "make the detector with --precision fp32"
                )
                raise NotFinite(f"{name}: its anomaly map is not finite in {precision}; {cure}.")
        return found


def to_batch(photographs: Iterable[Image.Image], side: int) -> Tensor:
    """RGB photographs -> (B,3,side,side) float32, squashed and normalised."""
    return torch.stack([image_to_tensor(photo, side) for photo in photographs])


def _joined(parts: Sequence[Detection]) -> Detection:
    return Detection(*(None if column[0] is None else np.concatenate(column) for column in zip(*parts)))


def _to_numpy(found: Detection) -> Detection:
    return Detection(*(None if part is None else part.float().cpu().numpy() for part in found))
