"""Tensors of a TorchScript archive, as OpenAI publishes CLIP, read without running anything of it.

Such a file is a zip archive: data.pkl lists the tensors of each module, data/KEY holds a tensor's bytes, and
code/ holds the program, which is not read. data.pkl is read by an unpickler that allows six names.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

MARK = "/constants.pkl"  # a file of such an archive that torch.save does not write
TABLE = "/data.pkl"
LARGEST_TABLE = 64 * 2**20  # bytes of data.pkl; OpenAI's largest has 0.2 million
DEEPEST = 32  # modules within modules
STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


@dataclass(frozen=True)
class Stored:
    """A tensor in the archive: the key of its bytes, its type, first element, shape and strides."""

    key: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Module:
    """A module of the archive: its tensors and modules by name."""

    parts: Mapping[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.parts = state if isinstance(state, dict) else {}


class Call:
    """A function that data.pkl may name and not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *given: object) -> object:
        return self._function(*given)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a function")


class TableReader(pickle.Unpickler):
    """data.pkl's unpickler: modules, descriptions of tensors and plain containers, nothing else."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self._module = type("Module", (Module,), {})  # a class per file: the file may set attributes on it

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return self._module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Call(_describe)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return Call(lambda tensor, *_: tensor)
        if (module, name) == ("collections", "OrderedDict"):
            return Call(OrderedDict)
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return Call(lambda values, *_: values)
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Stored:
        kind, dtype, key, _place, _count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("it names something that is no storage")
        return Stored(key, dtype, 0, (), ())


def _describe(storage: Any, offset: int, shape: tuple, strides: tuple, *_: object) -> Stored:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Stored) or any(type(n) is not int or n < 0 for n in numbers):
        raise pickle.UnpicklingError("it describes a tensor wrongly")
    return Stored(storage.key, storage.dtype, offset, tuple(shape), tuple(strides))


def is_script_archive(file: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.count("/") == 1 and name.endswith(MARK) for name in archive.namelist())


def read_script_archive(file: Path, prefix: str) -> dict[str, Tensor]:
    """Name with dots -> tensor, of those whose name begins with `prefix`; of all where none does.

    Raises ValueError, KeyError, zipfile.BadZipFile or an unpickler's error for a broken file.
    """
    with zipfile.ZipFile(file) as archive:
        folder = next(name for name in archive.namelist() if name.endswith(MARK)).removesuffix(MARK)
        table = archive.getinfo(folder + TABLE)
        if table.file_size > LARGEST_TABLE or table.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its table takes {table.file_size:,} bytes")
        content = archive.read(table)
        _refuse_large_memo(content)
        root = TableReader(io.BytesIO(content)).load()
        tensors = _tensors_of(root)
        chosen = {name: stored for name, stored in tensors.items() if name.startswith(prefix)} or tensors
        return {name: _load(archive, folder, stored) for name, stored in chosen.items()}


def _refuse_large_memo(table: bytes) -> None:
    """ValueError where data.pkl uses a memo index above its own length: the unpickler would allocate memory
    for all indices below it."""
    for opcode, index, _ in pickletools.genops(table):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(index or 0) > len(table):
            raise ValueError(f"its table asks for {int(index or 0):,} places")


def _tensors_of(root: object) -> dict[str, Stored]:
    """All tensors below a module, each module once."""
    if not isinstance(root, Module):
        raise ValueError("it holds no module")
    tensors: dict[str, Stored] = {}
    seen = {id(root)}
    waiting = [("", root, 0)]
    while waiting:
        prefix, module, depth = waiting.pop()
        for name, part in module.parts.items():
            if isinstance(part, Stored):
                tensors[f"{prefix}{name}"] = part
            elif isinstance(part, Module) and id(part) not in seen and depth < DEEPEST:
                seen.add(id(part))
                waiting.append((f"{prefix}{name}.", part, depth + 1))
    return tensors


def _load(archive: zipfile.ZipFile, folder: str, stored: Stored) -> Tensor:
    """The tensor, copied; ValueError where its bytes do not hold all its values."""
    record = archive.getinfo(f"{folder}/data/{stored.key}")
    if record.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"the bytes of tensor {stored.key} are packed")
    available = record.file_size // stored.dtype.itemsize
    reach = sum((size - 1) * stride for size, stride in zip(stored.shape, stored.strides, strict=True))
    count = math.prod(stored.shape)
    if count == 0:
        return torch.empty(stored.shape, dtype=stored.dtype)
    if count > available or stored.offset + reach >= available:
        raise ValueError(f"tensor {stored.key} claims more values than it has bytes for")
    values = torch.frombuffer(bytearray(archive.read(record)), dtype=stored.dtype, count=available)
    return values.as_strided(stored.shape, stored.strides, stored.offset)
