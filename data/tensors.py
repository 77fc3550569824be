"""From photographs and masks in memory to tensors."""

import numpy as np
import torch
from PIL import Image

from data.images import image_to_array, photograph_to_array
from data.region_of_interest import own_roi
from utils.tile_layout import TileLayout


def image_to_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """(3, size, size) uint8: the image resized by PIL's bicubic filter, its aspect ratio not kept."""
    return torch.from_numpy(image_to_array(image, size, size))


def photograph_to_pixels(image: Image.Image, size: int, layout: TileLayout | None = None) -> torch.Tensor:
    """What a detector takes: the resized image (3,size,size) uint8; with tiles (1+T,3,size,size), first the
    whole image and then its tiles. A mask of its own is a fourth channel."""
    pixels = torch.from_numpy(photograph_to_array(image, size, layout and layout.crops))
    roi = own_roi(image)
    if roi is None:
        return pixels
    return torch.cat([pixels, torch.from_numpy(roi).expand(*pixels.shape[:-3], 1, size, size)], -3)


def mask_to_tensor(mask: Image.Image | None, size: int) -> torch.Tensor:
    """(1, size, size) float32 of 0 and 1: resized by PIL's bilinear filter, defect above half of full scale.

    None, the mask of a normal image, gives zeros.
    """
    if mask is None:
        return torch.zeros(1, size, size)
    resized = mask.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized) > 127.5).float().unsqueeze(0)
