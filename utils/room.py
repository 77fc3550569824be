"""Room for large tensors: in memory, or in a temporary file that is mapped into memory."""

from __future__ import annotations

import atexit
import logging
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
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

    Numbers take two bytes: float32 becomes bfloat16. The file loses its name as soon as it is mapped, so it
    is gone when the process ends; where a system cannot do that, it is removed at the end.
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
            return torch.frombuffer(self._mapped(size), dtype=dtype)[: math.prod(shape)].view(shape)
        except OSError as error:
            raise ConfigError(
                f"{self.what} cannot be stored in {where} ({error.strerror}); {self.cure}."
            ) from error

    def _mapped(self, size: int) -> mmap.mmap:
        handle, name = tempfile.mkstemp(prefix=".fdsl-", suffix=".tmp", dir=self.folder)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size)  # a full disk is reported now, not while it is written to
            else:
                os.truncate(handle, size)
            mapped = mmap.mmap(handle, size)
        finally:
            os.close(handle)
            try:
                os.unlink(name)
            except OSError:  # Windows keeps it while it is used
                atexit.register(_removed, name)
        return mapped


def _removed(name: str) -> None:
    with suppress(OSError):
        os.unlink(name)
