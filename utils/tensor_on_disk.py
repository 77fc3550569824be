"""Large tensors in a temporary file that is mapped into memory, so that gigabytes of them take no memory."""

from __future__ import annotations

import logging
import math
import mmap
import os
import shutil
import tempfile

import torch
from torch import Tensor

from utils.errors import ConfigError
from utils.text import printable

logger = logging.getLogger("fdsl")
GIB = 2**30
SPARE = 2**28  # bytes of a disk that stay free
CURE = "set TMPDIR to a folder on another disk"


def tensor_on_disk(shape: tuple[int, ...], dtype: torch.dtype, what: str) -> Tensor:
    """An uninitialised tensor on the CPU, for `what`, in a file of the temporary folder. The file has no
    name, so it is gone when the process ends. ConfigError where the disk lacks room."""
    size, where = max(1, math.prod(shape)) * dtype.itemsize, tempfile.gettempdir()
    free = shutil.disk_usage(where).free
    if size + SPARE > free:
        raise ConfigError(
            f"{what} take {size / GIB:.1f} GiB of disk, and {printable(where)} has {free / GIB:.1f} GiB "
            f"left; {CURE}."
        )
    logger.info("%s take %.2f GiB of disk in %s", what, size / GIB, where)
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is reported now
            else:
                file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise ConfigError(
            f"{what} cannot be stored in {printable(where)} ({error.strerror}); {CURE}."
        ) from error
    return torch.frombuffer(mapped, dtype=dtype)[: math.prod(shape)].view(shape)
