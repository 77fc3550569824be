"""The published augmentations, 2x2 mosaics and random crops; and synthetic defects on normal images, so that
heads can be trained without a defective part. All with their masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as paired

from data.photographs import image_to_pixels, mask_to_tensor

SMALL_CROP_PROBABILITY = 0.6  # of a defective image's crops
NORMAL_CROP_PROBABILITY = 0.5
SMALL_CROP, LARGE_CROP = 50, 100  # pixels of the resized image
SMALLEST, LARGEST = 0.0005, 0.08  # of the photograph's area
OPACITY = 0.5, 1.0  # of the filling, from and to
VISIBLE = 8  # grey levels, mean over colours, from which on a pixel belongs to the mask
TRIES = 5  # until a defect is visible


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


def add_defect(pixels: Tensor, foreign: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A normal image (3,S,S) uint8 and another one -> the first with a synthetic defect, and its mask (1,S,S)
    float32 of 0 and 1.

    A defect is a shape (a patch, a noise-shaped spot, a thin line) with a foreign filling: another place of
    the same photograph, another photograph, or the place itself made darker or brighter. After CutPaste (Li
    et al., 2021) and DRAEM (Zavrtanik et al., 2021). The mask holds the pixels that visibly changed; it is
    empty where none did, for instance on a photograph of one colour.
    """
    for _ in range(TRIES):
        shape = _shape(pixels.shape[-1], generator)
        filling = _filling(pixels, foreign, generator).float()
        opacity = shape * _between(*OPACITY, generator)
        defective = (pixels + opacity * (filling - pixels)).round().clamp(0, 255).to(torch.uint8)
        changed = (defective.float() - pixels.float()).abs().mean(0, keepdim=True) >= VISIBLE
        if changed.any():
            return defective, changed.float()
    return pixels, torch.zeros_like(pixels[:1], dtype=torch.float32)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _shape(side: int, generator: torch.Generator) -> Tensor:
    """Where the defect is: (1,side,side) in [0,1], soft at its edge."""
    area = math.exp(_between(math.log(SMALLEST), math.log(LARGEST), generator)) * side**2
    kind = int(torch.randint(3, (), generator=generator))
    shape = (_patch, _spot, _line)[kind](side, area, generator)
    return F.avg_pool2d(shape[None], 3, stride=1, padding=1, count_include_pad=False)[0]


def _patch(side: int, area: float, generator: torch.Generator) -> Tensor:
    """A rotated rectangle, up to four times as long as wide."""
    ratio = math.exp(_between(0, math.log(4), generator))
    half = torch.tensor([math.sqrt(area * ratio), math.sqrt(area / ratio)]) / 2
    along, across = _rotated_places(side, generator)
    return ((along.abs() <= half[0]) & (across.abs() <= half[1])).float()[None]


def _spot(side: int, area: float, generator: torch.Generator) -> Tensor:
    """An ellipse whose edge is frayed by smooth noise."""
    ratio = math.exp(_between(0, math.log(3), generator))
    along, across = _rotated_places(side, generator)
    distance = (along / math.sqrt(ratio)) ** 2 + (across * math.sqrt(ratio)) ** 2
    coarse = torch.rand(1, 1, *[max(2, int(_between(4, 24, generator)))] * 2, generator=generator)
    noise = F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)[0]
    return (distance * math.pi / area < 0.3 + 1.4 * noise).float()


def _line(side: int, area: float, generator: torch.Generator) -> Tensor:
    """A bent line, one to a few pixels wide."""
    width = max(1, round(_between(0.002, 0.012, generator) * side))
    step = min(area / width, 1.5 * side) / 6
    place = [_between(0, side, generator), _between(0, side, generator)]
    course, points = _between(0, 2 * math.pi, generator), [tuple(place)]
    for _ in range(6):
        course += _between(-0.7, 0.7, generator)
        place = [place[0] + step * math.cos(course), place[1] + step * math.sin(course)]
        points.append(tuple(place))
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).line(points, fill=255, width=width, joint="curve")
    return mask_to_tensor(canvas, side)


def _rotated_places(side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates (side,side) of every pixel along and across a direction, from a point of the photograph."""
    rows, columns = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    down, right = rows - _between(0, side, generator), columns - _between(0, side, generator)
    angle = _between(0, math.pi, generator)
    cos, sin = math.cos(angle), math.sin(angle)
    return right * cos + down * sin, down * cos - right * sin


def _filling(pixels: Tensor, foreign: Tensor, generator: torch.Generator) -> Tensor:
    """The filling of the defect (3,S,S): another place, another photograph, or another brightness."""
    side = pixels.shape[-1]
    kind = int(torch.randint(3, (), generator=generator))
    if kind == 2:
        brightness = (1.25, 1.8) if chance(0.5, generator) else (0.2, 0.75)
        return pixels * _between(*brightness, generator)
    source = pixels if kind == 0 else foreign
    down, right = (int(torch.randint(side, (), generator=generator)) for _ in range(2))
    moved = source.roll((down, right), (-2, -1))
    return moved.flip(-1) if chance(0.5, generator) else moved.transpose(-1, -2)
