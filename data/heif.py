"""HEIC photographs, as telephones take them: read where the package pillow-heif is installed."""

from __future__ import annotations

import functools
import importlib

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HOW = "install pillow-heif (pip install pillow-heif), or convert it to PNG or JPEG"


@functools.cache
def can_read_heif() -> bool:
    """Whether Pillow reads HEIC files here; registers pillow-heif where it is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except (ImportError, OSError, AttributeError):  # the package or its library is missing
        return False
    return True
