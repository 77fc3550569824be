"""RGB photographs: from paths, PIL images, arrays and tensors, and from files read ahead by threads; and what
a detector takes of them, tensors."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from data.images import (
    computed_ahead,
    open_image,
    pages_left_out,
    photograph_to_array,
    refuse_large,
    to_rgb,
    upright,
)
from data.inputs import Listed, list_images
from data.region_of_interest import MaskFolders, own_roi
from data.values import Normalisation, doubts_of, find_normalisation, find_range
from utils.errors import DataError
from utils.files import Stamp, stamp_of
from utils.limits import GreyRange
from utils.sources import is_file
from utils.text import one_line, printable
from utils.tile_layout import TileLayout
from utils.views import Views

logger = logging.getLogger("fdsl")
Item = TypeVar("Item")
Photograph = str | Path | Image.Image | np.ndarray | torch.Tensor


def as_photograph(image: Photograph, grey: GreyRange | None = None, name: str = "an image") -> Image.Image:
    """One image as an upright RGB photograph.

    A path; a PIL image of any mode; an array (H,W,3) or (H,W) uint8; a tensor (3,H,W) uint8, or float in
    [0,1]. `grey`: the range of values of more than 8 bits. `name`: what errors call it. Raises DataError
    for a file of more than `most_pixels` and for anything else.
    """
    if isinstance(image, (str, Path)):
        return open_image(image, grey)
    if isinstance(image, Image.Image):
        refuse_large(*image.size, name)
        if not all(image.size):
            raise DataError(f"{name} has no pixels; give a photograph")
        try:
            return to_rgb(upright(image), grey)
        except Exception as error:  # it is closed, or read from a damaged file only now
            raise DataError(f"{name} cannot be read ({one_line(error)}); open it again") from error
    if isinstance(image, torch.Tensor):
        image = _tensor_to_array(image, name)
    if not isinstance(image, np.ndarray):
        raise DataError(f"{name} is a {type(image).__name__}; give a path, a PIL image, an array or a tensor")
    is_picture = image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not is_picture or image.size == 0:
        raise DataError(f"{name} is an array {image.shape} of {image.dtype}; give (H,W,3) or (H,W), uint8")
    refuse_large(image.shape[1], image.shape[0], name)
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")


def pixel_digest(photo: Image.Image) -> str:
    """A digest of an RGB photograph's size and pixels."""
    digest = hashlib.blake2b(repr(photo.size).encode(), digest_size=16)
    digest.update(photo.tobytes())
    return digest.hexdigest()


def _tensor_to_array(tensor: torch.Tensor, name: str) -> np.ndarray:
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise DataError(f"{name} is a tensor without plain values; give a dense one")
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise DataError(f"{name} is a tensor {tuple(tensor.shape)}; give (3,H,W), or (B,3,H,W) for several")
    refuse_large(tensor.shape[2], tensor.shape[1], name)
    if tensor.is_floating_point():
        if not bool(((tensor >= 0) & (tensor <= 1)).all()):
            raise DataError(f"{name} has floats outside 0 to 1; give the photograph before any normalisation")
        tensor = (tensor * 255).round().to(torch.uint8)
    return tensor.permute(1, 2, 0).cpu().numpy()


def each_image(images: object, name: str = "images") -> tuple[Iterable, bool]:
    """The given images one by one, and whether it was a single one.

    Single: a path of a file, a PIL image, an array (H,W,3) or (H,W), a tensor (3,H,W). Several: a folder, a
    pattern, an array (B,H,W,3), a tensor (B,3,H,W), or any iterable of single ones.
    """
    if isinstance(images, (str, Path)):
        several = os.path.isdir(images) or (not os.path.lexists(images) and glob.has_magic(os.fspath(images)))
        return (list_images(images), False) if several else ([images], True)
    if isinstance(images, Image.Image):
        return [images], True
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return (images, False) if images.ndim == 4 else ([images], True)
    if not isinstance(images, Iterable):
        raise DataError(f"{name} are a {type(images).__name__}; give paths, PIL images, arrays or tensors")
    return images, False


def name_of(image: Photograph, number: int) -> str:
    """What messages call the `number`-th of several images."""
    return printable(Path(image).name) if isinstance(image, (str, Path)) else f"image {number}"


@dataclass(frozen=True)
class PhotographReader:
    """Reads all photographs of a part as its references were read.

    grey: the range of photographs of more than 8 bits. normalisation: of float tensors. masks: those of each
    photograph, where --roi or --ignore names folders. Each is None where there is none.
    """

    grey: GreyRange | None = None
    normalisation: Normalisation | None = None
    masks: MaskFolders | None = None

    def suited_to(self, images: Sequence[Photograph], grey_range: str | None) -> PhotographReader:
        """A reader with the same masks and with the normalisation and the grey range of these references;
        `grey_range`: LOW:HIGH, in place of the one that is found. DataError for what cannot be read."""
        found = replace(self, normalisation=find_normalisation(images))
        return replace(found, grey=find_range(map(found.plain, images), grey_range))

    def plain(self, image: Photograph, name: str = "an image") -> Any:
        """A float tensor (3,H,W) before its normalisation; any other image as it is. DataError, which calls
        it by its `name`, for values that the normalisation does not give."""
        return image if self.normalisation is None else self.normalisation.plain(image, name)

    def read(self, image: Photograph, name: str = "an image") -> Image.Image:
        """A plain image as an upright RGB photograph, with its own mask where there are some; DataError as
        `as_photograph`, and for an image without a path where there are masks."""
        photo = as_photograph(image, self.grey, name)
        if self.masks is None:
            return photo
        if not isinstance(image, (str, Path)):
            raise DataError(f"{name} has no path, by which its mask in {self.masks} is found; give paths")
        return self.masks.on(photo, image)


AS_IT_IS = PhotographReader()


@dataclass(frozen=True)
class Loaded:
    """A photograph that was read: its name, the RGB picture, and what a detector takes; or the reason why it
    cannot be read. stamp: of its file, if asked for. doubt: a warning about its grey values or pages. path:
    of a file on the disk, None of one in an archive."""

    name: str
    photo: Image.Image | None = None
    views: Views | None = None
    reason: str = ""
    doubt: str = ""
    stamp: Stamp | None = None
    path: Path | None = None


def read_ahead(
    items: Iterable[Listed],
    size: int,
    threads: int,
    ahead: int,
    layout: TileLayout | None = None,
    stamped: bool = False,
    reader: PhotographReader = AS_IT_IS,
) -> Iterator[Loaded]:
    """The photographs in order, read by `threads` threads, at most `ahead` of them in advance."""

    def read(item: Listed) -> Loaded:
        name, path, reason, _ = item
        stamp = None
        if path is None:
            return Loaded(name, reason=reason)
        with contextlib.suppress(OSError):  # before it is read: what is written meanwhile is another file
            stamp = stamp_of(path) if stamped and is_file(path) else None
        try:
            photo = reader.read(path)
            if reader.masks is not None and stamp is not None:  # another mask is another photograph
                stamp["digest"] = reader.masks.digest_with(path, stamp["digest"])
            views = views_of(photo, size, layout)
            doubt = "".join(doubts_of([path], reader.grey))
            if more := pages_left_out(path):
                doubt = f"{printable(path.name)}: only its first page is read, {more} more are left out"
            if stamped and stamp is None:
                raise DataError("was written while it was read; give it again")
            return Loaded(name, photo, views, "", doubt, stamp, path if os.path.isfile(path) else None)
        except DataError as error:
            return Loaded(name, reason=str(error).removeprefix(f"{printable(path)}: "), stamp=stamp)

    return computed_ahead(read, items, max(1, threads), ahead)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter."""
    source = iter(items)
    return iter(lambda: list(islice(source, min(size, sys.maxsize))), [])


def image_to_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """(3, size, size) uint8: the image resized by PIL's bicubic filter, its aspect ratio not kept."""
    return torch.from_numpy(photograph_to_array(image, size))


def views_of(image: Image.Image, size: int, layout: TileLayout | None = None) -> Views:
    """One photograph as a detector takes it: resized to size x size, with its tiles in a `layout`, and with
    its own mask where it has one."""
    pixels = torch.from_numpy(photograph_to_array(image, size, layout and layout.crops))
    whole, tiles = (pixels[None], None) if layout is None else (pixels[:1], pixels[None, 1:])
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
