"""Room for large tensors: in memory, or in a temporary file that is mapped into memory."""

from __future__ import annotations

import logging
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import ConfigError
from utils.text import printable

logger = logging.getLogger("fdsl")
GIB = 2**30
SPARE = 2**28  # bytes of a disk that stay free

Room = Callable[[tuple[int, ...], torch.dtype], Tensor]  # shape, type -> an uninitialised tensor on the CPU


def in_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu")


class OnDisk:
    """Room in a file of `folder`, or of the nearest folder above that exists.

    Numbers take two bytes: float32 becomes bfloat16. The file has no name, so it is gone when the process
    ends.
    """

    def __init__(self, folder: Path, what: str, cure: str = "name an --output on another disk") -> None:
        """`what` is stored there, and the `cure` for a full disk, for messages."""
        there = next((place for place in (folder, *folder.parents) if place.is_dir()), Path("."))
        self.folder = there if os.access(there, os.W_OK) else Path(tempfile.gettempdir())
        self.what, self.cure = what, cure

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """ConfigError where the disk lacks room."""
        dtype = dtype if dtype.itemsize == 2 else torch.bfloat16
        size = max(1, math.prod(shape)) * dtype.itemsize
        where = printable(str(self.folder))
        free = shutil.disk_usage(self.folder).free
        if size + SPARE > free:
            raise ConfigError(
                f"{self.what} take {size / GIB:.1f} GiB of disk while they are compared, and {where} has "
                f"{free / GIB:.1f} GiB left; {self.cure}."
            )
        logger.info("%s take %.2f GiB of disk in %s while they are compared", self.what, size / GIB, where)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)  # a full disk is reported now
                else:
                    file.truncate(size)
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise ConfigError(
                f"{self.what} cannot be stored in {where} ({error.strerror}); {self.cure}."
            ) from error
        return torch.frombuffer(mapped, dtype=dtype)[: math.prod(shape)].view(shape)
