"""Maps as TIFF files of 16-bit floats, which Pillow and OpenCV do not write."""

from __future__ import annotations

import struct
import zlib

import numpy as np

SHORT, LONG = 3, 4  # kinds of a tag's value
DEFLATE, BLACK_IS_ZERO, FLOATS = 8, 1, 3
HEADER = struct.Struct("<2sHI")
ENTRY = struct.Struct("<HHII")


def half_tiff(values: np.ndarray) -> bytes:
    """A TIFF file (version 6.0, one strip, deflate) of an array (H,W), as float16."""
    height, width = values.shape
    strip = zlib.compress(np.ascontiguousarray(values, "<f2").tobytes(), 6)
    tags = [
        (256, LONG, width),
        (257, LONG, height),
        (258, SHORT, 16),  # bits
        (259, SHORT, DEFLATE),
        (262, SHORT, BLACK_IS_ZERO),
        (273, LONG, HEADER.size),  # offset of the strip
        (277, SHORT, 1),  # channels
        (278, LONG, height),  # rows of the strip
        (279, LONG, len(strip)),
        (339, SHORT, FLOATS),
    ]
    padding = b"\0" * (len(strip) % 2)
    directory = HEADER.size + len(strip) + len(padding)
    entries = b"".join(ENTRY.pack(tag, kind, 1, value) for tag, kind, value in tags)
    count, no_further_page = struct.pack("<H", len(tags)), struct.pack("<I", 0)
    return HEADER.pack(b"II", 42, directory) + strip + padding + count + entries + no_further_page
