"""Errors that the user can mend: each message is one sentence with the cure."""

from __future__ import annotations

import sys

OUT_OF_MEMORY = (
    "out of memory",  # MPS
    "can't allocate memory",  # the CPU's allocator
    "not enough memory",  # Windows
    "status_alloc_failed",  # cuBLAS and cuDNN
)
MEMORY_CURE = "use a smaller --batch-size or --image-size, --precision bf16, or another --device"


class ConfigError(Exception):
    """Settings or files that cannot be used as given; the message is one sentence with the cure."""


class DataError(Exception):
    """What is wrong with the user's data, in one sentence that names the file and the cure.

    A DataLoader re-raises a worker's error with the worker's traceback as its message: the sentence is taken
    out again.
    """

    def __init__(self, sentence: str):
        marker = f"\n{type(self).__module__}.{type(self).__qualname__}: "
        if sentence.startswith("Caught ") and marker in sentence:
            sentence = sentence.rsplit(marker, 1)[1].strip()
        super().__init__(sentence)


class ModelError(Exception):
    """A model that cannot be built as asked; the message is one sentence with the cure."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means too little memory, a device's or the machine's."""
    torch = sys.modules.get("torch")  # None where it is not imported
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    by_text = isinstance(error, RuntimeError) and any(one in str(error).lower() for one in OUT_OF_MEMORY)
    return by_text or isinstance(error, kinds)
