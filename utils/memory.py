"""Batches that do not fit into memory: the same work in halves, with a line in the log; and large tensors in
a temporary file that is mapped into memory, so that gigabytes of them take none."""

from __future__ import annotations

import gc
import logging
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from utils.errors import MEMORY_CURE, ConfigError, is_out_of_memory
from utils.text import first_line, printable
from utils.world import neighbours

logger = logging.getLogger("fdsl")
Result = TypeVar("Result")
GIB = 2**30
SPARE = 2**28  # bytes of a disk that stay free
CURE = "set TMPDIR to a folder on another disk"


def sparing(attempt: Callable[[], Result], smaller: Callable[[], bool]) -> Result:
    """The result of `attempt()`, repeated after each lack of memory that `smaller()` could relieve.

    `smaller` returns False where nothing can be made smaller: ConfigError. Other errors are raised.
    """
    while True:
        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error, 120)
        free_memory()  # outside the handler: the error's frames held the tensors
        if not smaller():
            raise ConfigError(f"There is not enough memory for a single image ({reason}); {MEMORY_CURE}.")


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


class Halving(Generic[Result]):
    """Calls `function` with a batch, which splits as a tensor does along its first axis; after a lack of
    memory with halves, quarters, ... from then on.

    `join` concatenates the results of the pieces in order. `smaller` makes other things smaller and returns
    whether it did. It is called first, with the number of items that were tried at once, for things that may
    take more memory than the items; and with 0 once single items do not fit either. `function` must treat
    items independently (no batch statistics): then the results are those of the whole batch, up to the
    rounding of products, for which a device may choose another kernel by their size.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        join: Callable[[Sequence[Result]], Result],
        smaller: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self.function, self.join, self.smaller = function, join, smaller
        self.limit: int | None = None

    def __call__(self, batch: Any, *more: Any, **named: Any) -> Result:
        def attempt() -> Result:
            fits = self.limit is None or self.limit >= len(batch)
            pieces = [batch] if fits else batch.split(self.limit)
            results = [self.function(piece, *more, **named) for piece in pieces]
            return results[0] if len(results) == 1 else self.join(results)

        return sparing(attempt, lambda: self._spare(len(batch)))

    def _spare(self, size: int) -> bool:
        """Whether the next attempt needs less memory."""
        now = min(self.limit or size, size)
        if self.smaller(now):
            return True
        if now <= 1:
            return self.smaller(0)
        self.limit = now // 2
        logger.warning("Out of memory with %d images at once: going on with %d.", now, self.limit)
        return True


def free_bytes(device: torch.device) -> int:
    """The free memory of a device in bytes: a GPU's own, or this process's share of the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return sizes["MemAvailable"] * 1024 // neighbours()
    except (OSError, KeyError, ValueError):  # no Linux
        there = hasattr(os, "sysconf")
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if there else 2**33
        return memory // 2 // neighbours()


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
