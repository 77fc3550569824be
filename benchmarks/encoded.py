"""A backbone that encodes an image once: whoever shows it the same pixels again gets what is kept on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbone import NOTHING_MORE, Backbone
from models.features import RAW_TOKENS, Features

SERVED = frozenset({RAW_TOKENS})  # what can be kept beside the unit tokens


class Encoded:
    """A `Backbone` around another, with a folder of what it has encoded.

    A file holds the raw tokens (L,N,C) float32 of one image; its name is a digest of the image's pixels, the
    weights, the tapped blocks and the precision. What asks for more than tokens is not kept.
    """

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        self.backbone = backbone
        self.layers, self.width, self.patch_size = backbone.layers, backbone.width, backbone.patch_size
        self.mean, self.std, self.dtype = backbone.mean, backbone.std, backbone.dtype
        self.fingerprint = backbone.fingerprint
        self.folder = folder / self._digest(b"")[:16]
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def grid(self, side: int) -> int:
        return self.backbone.grid(side)

    def normalise(self, pixels: Tensor) -> Tensor:
        return self.backbone.normalise(pixels)

    def encode(self, images: Tensor, want: frozenset[str] = NOTHING_MORE) -> Features:
        """As the backbone's own, in its precision."""
        if not want <= SERVED:
            return self.backbone.encode(images, want)
        raw = torch.stack([self._raw_tokens(image) for image in images], dim=1).to(self.device)
        tokens = F.normalize(raw, dim=-1).to(self.dtype)
        return Features(tokens, None, raw if RAW_TOKENS in want else None)

    def _raw_tokens(self, image: Tensor) -> Tensor:
        """The raw tokens (L,N,C) of an image (3,S,S), from the disk or for the disk."""
        file = self.folder / f"{self._digest(image.cpu().contiguous().numpy().tobytes())}.npy"
        if not file.exists():
            found = self.backbone.encode(image[None], frozenset({RAW_TOKENS})).raw_tokens
            if found is None:
                raise ValueError(f"{type(self.backbone).__name__} gives no {RAW_TOKENS}")
            unfinished = file.with_suffix(f".{os.getpid()}.tmp")
            with open(unfinished, "wb") as stream:
                np.save(stream, found[:, 0].cpu().numpy())
            unfinished.replace(file)
        return torch.from_numpy(np.load(file))

    def _digest(self, pixels: bytes) -> str:
        what = f"{self.fingerprint} {self.layers} {self.dtype}".encode()
        return hashlib.blake2b(pixels, key=hashlib.blake2b(what).digest(), digest_size=20).hexdigest()
