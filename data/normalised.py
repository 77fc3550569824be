"""Float tensors that were normalised for a network, brought back to 0 to 1: by which normalisation is found
from the references."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.errors import DataError
from utils.limits import most_pixels

logger = logging.getLogger("fdsl")
OUTSIDE = 1e-3  # of 0 to 1: values may lie so far outside, by rounding
WHOLE = 0.05  # grey levels: of tensors made from 8 bits, values lie so near to whole levels


@dataclass(frozen=True)
class Normalisation:
    """Values v of a channel became (v - mean) / std; mean, std: of red, green and blue in 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def undone(self, tensor: Tensor) -> Tensor:
        """A float tensor (3,H,W) before it, float32."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return tensor.detach().float().cpu() * std + mean

    def plain(self, image: Any, name: str = "an image") -> Any:
        """A float tensor (3,H,W) before it, in 0 to 1; anything else as it is. DataError for values that this
        normalisation does not give."""
        if not _is_float_photograph(image):
            return image
        values = self.undone(image)
        if not _holds(values):
            raise DataError(
                f"{name} has values that the references' normalisation does not give (mean {self.mean}, "
                f"deviation {self.std}); normalise all images alike"
            )
        return values.clamp(0, 1)


def _usual() -> Iterator[Normalisation]:
    """From the narrowest to the widest, so that values that suit several are read by the narrowest."""
    from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    yield Normalisation((0.5,) * 3, (1.0,) * 3)
    yield Normalisation((0.5,) * 3, (0.5,) * 3)
    yield Normalisation(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    yield Normalisation(IMAGENET_MEAN, IMAGENET_STD)


def find_normalisation(images: Iterable[Any]) -> Normalisation | None:
    """That of the float tensors (3,H,W) among the references; None where all of them lie in 0 to 1, or none
    of the usual ones gives their values.

    It is one that gives back whole grey levels in all of them, else the narrowest that holds their values.
    """
    tensors = [image for image in images if _is_float_photograph(image)]
    if all(_holds(tensor, 0.0) for tensor in tensors):
        return None
    holding = [one for one in _usual() if all(_holds(one.undone(tensor)) for tensor in tensors)]
    if not holding:
        return None
    exact = [one for one in holding if all(_has_whole_levels(one.undone(tensor)) for tensor in tensors)]
    found = (exact or holding)[0]
    logger.info(
        "normalised tensors: read as of mean %s and deviation %s%s",
        found.mean,
        found.std,
        "" if exact else ", the narrowest normalisation that holds their values",
    )
    return found


def _is_float_photograph(image: object) -> bool:
    """What data/photographs.py takes as floats: with plain values, and not too many."""
    if not isinstance(image, Tensor) or image.layout is not torch.strided or image.is_meta:
        return False
    is_photograph = image.is_floating_point() and image.ndim == 3 and image.shape[0] == 3
    return is_photograph and image[0].numel() <= most_pixels()


def _holds(values: Tensor, outside: float = OUTSIDE) -> bool:
    return bool(((values >= -outside) & (values <= 1 + outside)).all())


def _has_whole_levels(values: Tensor) -> bool:
    return bool((255 * values - (255 * values).round()).abs().max() < WHOLE)
