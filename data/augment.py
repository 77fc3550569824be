"""The published augmentations: 2x2 mosaics and random crops, with their masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as paired

from data.photographs import image_to_pixels, mask_to_tensor

SMALL_CROP_PROBABILITY = 0.6  # of a defective image's crops
NORMAL_CROP_PROBABILITY = 0.5
SMALL_CROP, LARGE_CROP = 50, 100  # pixels of the resized image


def chance(probability: float, generator: torch.Generator) -> bool:
    return torch.rand((), generator=generator).item() < probability


def mosaic(
    tiles: Sequence[tuple[Image.Image, Image.Image | None]], size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Four photographs with their masks as a 2x2 mosaic, row by row: (3,size,size) uint8 and (1,size,size).

    Each tile is resized to half the side; where the side is odd the right and lower tiles are one pixel
    larger.
    """
    edges = (0, size // 2, size)
    photo, defects = Image.new("RGB", (size, size)), Image.new("L", (size, size))
    for index, (image, mask) in enumerate(tiles):
        row, column = divmod(index, 2)
        corner = edges[column], edges[row]
        sides = edges[column + 1] - edges[column], edges[row + 1] - edges[row]
        photo.paste(image.resize(sides, Image.Resampling.BICUBIC), corner)
        if mask is not None:
            defects.paste(mask.resize(sides, Image.Resampling.BILINEAR), corner)
    return image_to_pixels(photo, size), mask_to_tensor(defects, size)


def random_crop(
    pixels: torch.Tensor, mask: torch.Tensor, anomalous: bool, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A square crop of a resized image (3,S,S) uint8 and its mask (1,S,S), resized back to S.

    A defective image's crop always holds part of the defect; a normal image is cropped with probability
    0.5, and is otherwise unchanged. So is a defect that is too small to leave a pixel in the resized mask.
    """
    side = pixels.shape[-1]
    if anomalous:
        crop = SMALL_CROP if chance(SMALL_CROP_PROBABILITY, generator) else LARGE_CROP
        inside = mask[0].nonzero()
        if len(inside) == 0:
            return pixels, mask
        target = inside[torch.randint(len(inside), (), generator=generator)].tolist()
    else:
        if not chance(NORMAL_CROP_PROBABILITY, generator):
            return pixels, mask
        crop, target = LARGE_CROP, None
    crop = min(crop, side)
    top, left = (_start(crop, side, None if target is None else target[axis], generator) for axis in (0, 1))
    window = {"top": top, "left": left, "height": crop, "width": crop, "size": [side, side]}
    pixels = paired.resized_crop(tv_tensors.Image(pixels), **window, interpolation=InterpolationMode.BICUBIC)
    mask = paired.resized_crop(tv_tensors.Mask(mask), **window, interpolation=InterpolationMode.NEAREST)
    return pixels.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)


def _start(crop: int, side: int, target: int | None, generator: torch.Generator) -> int:
    """First pixel of a crop along one axis: any that fits, and covers the target pixel if there is one."""
    low, high = (0, side - crop) if target is None else (max(0, target - crop + 1), min(target, side - crop))
    return int(torch.randint(low, high + 1, (), generator=generator))
