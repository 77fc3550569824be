"""The bytes of an exported detector: a checksum at their end, and the kinds of nodes that they hold. They are
read without the package onnx, and before onnxruntime sees them."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path

from utils.errors import ConfigError
from utils.text import printable

CHUNK = 2**24  # bytes
NONE = "00000000"  # in place of a checksum
# Numbers of fields in ONNX's protobuf messages: a model's, a graph's, a node's and an attribute's.
GRAPH, FUNCTION, NODE, ATTRIBUTE, INNER_GRAPHS = 7, 25, 1, 5, (6, 11)
SIZES = {1: 8, 5: 4}  # bytes of a field's value, by the kind of its encoding
VARINT, BYTES = 0, 2  # the other kinds that ONNX has


def checksum_of(file: Path) -> str:
    """CRC-32 of a file's bytes, hex; "" where there is no file."""
    if not file.is_file():
        return ""
    checksum = 0
    with open(file, "rb") as content:
        while chunk := content.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return f"{checksum:08x}"


def seal(file: Path) -> None:
    """Appends the checksum of an ONNX file as one more entry of its metadata: protobuf joins what is
    appended."""
    checksum = checksum_of(file)
    with open(file, "ab") as content:
        content.write(_entry(checksum))


def require_sealed(file: Path) -> None:
    """ConfigError for a file that `seal` did not write or that was changed since, and for nodes that hold
    graphs or call functions: a detector has none, and they could compute for ever."""
    name, size, length = printable(file), file.stat().st_size, len(_entry(NONE))
    if size <= length:
        raise ConfigError(f"{name} was not written by export.py, or is cut off; name a whole file.")
    with open(file, "rb") as content, mmap.mmap(content.fileno(), size, access=mmap.ACCESS_READ) as whole:
        end = whole[size - length :]
        if end[: -len(NONE)] != _entry(NONE)[: -len(NONE)]:
            raise ConfigError(f"{name} was not written by export.py, or is cut off; name a whole file.")
        with memoryview(whole) as view:
            checksum = f"{zlib.crc32(view[:-length]):08x}"
        if end != _entry(checksum):
            raise ConfigError(f"{name} is damaged: its content is not what was written; copy it again.")
        try:
            is_plain = _is_plain(whole)
        except (LookupError, ValueError) as error:
            raise ConfigError(f"{name} is no ONNX file; export it again.") from error
    if not is_plain:
        raise ConfigError(f"{name} holds graphs within its graph, which no detector does; export it again.")


def _entry(checksum: str) -> bytes:
    """The bytes of a model's field `metadata_props` with one entry, the checksum."""
    key, value = b"checksum", checksum.encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value
    return b"\x72" + bytes([len(entry)]) + entry


def _is_plain(content: mmap.mmap) -> bool:
    """Whether no node of a model holds a graph, and the model no function."""
    fields = list(_fields(content, 0, len(content)))
    graphs = [place for number, place in fields if number == GRAPH]
    nodes = _within(content, graphs, NODE)
    attributes = _within(content, nodes, ATTRIBUTE)
    inner = (number in INNER_GRAPHS for place in attributes for number, _ in _fields(content, *place))
    return not any(number == FUNCTION for number, _ in fields) and not any(inner)


Place = tuple[int, int]  # from which byte to which


def _within(content: mmap.mmap, places: list[Place], wanted: int) -> list[Place]:
    """The places of the fields of a number in messages."""
    return [found for place in places for number, found in _fields(content, *place) if number == wanted]


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, Place]]:
    """The number and the place of each field of a protobuf message; LookupError or ValueError for what is
    none."""
    while at < end:
        key, at = _varint(content, at)
        kind = key & 7
        if kind == VARINT:
            size = _varint(content, at)[1] - at
        elif kind == BYTES:
            size, at = _varint(content, at)
        else:
            size = SIZES[kind]
        if at + size > end:
            raise ValueError("a field ends beyond its message")
        yield key >> 3, (at, at + size)
        at += size


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of protobuf's, seven bits a byte, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")
