"""From photographs and masks in memory to tensors."""

import numpy as np
import torch
from PIL import Image

from data.images import image_to_array, photograph_to_array
from data.region_of_interest import own_roi
from utils.tile_layout import TileLayout
from utils.views import Views


def image_to_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """(3, size, size) uint8: the image resized by PIL's bicubic filter, its aspect ratio not kept."""
    return torch.from_numpy(image_to_array(image, size, size))


def views_of(image: Image.Image, size: int, layout: TileLayout | None = None) -> Views:
    """One photograph as a detector takes it: resized to size x size, with its tiles in a `layout`, and with
    its own mask where it has one."""
    pixels = torch.from_numpy(photograph_to_array(image, size, layout and layout.crops))[None]
    whole, tiles = (pixels, None) if layout is None else (pixels[:, 0], pixels[:, 1:])
    roi = own_roi(image)
    return Views(whole, tiles, None if roi is None else torch.from_numpy(roi)[None])


def mask_to_tensor(mask: Image.Image | None, size: int) -> torch.Tensor:
    """(1, size, size) float32 of 0 and 1: resized by PIL's bilinear filter, defect above half of full scale.

    None, the mask of a normal image, gives zeros.
    """
    if mask is None:
        return torch.zeros(1, size, size)
    resized = mask.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized) > 127.5).float().unsqueeze(0)
