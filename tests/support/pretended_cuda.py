"""A pretended CUDA device: tensors that say `cuda:0` and are computed on the CPU, under CUDA's rules.

Every operator that touches one is checked as CUDA would check it: a tensor of the CPU (other than a number,
in an operator that takes numbers) must not meet one of the device, and `.numpy()` is refused. Counted are
kernels, what crosses between host and device, and what makes the host wait (a value that is read, a shape
that depends on values, a blocking copy to the device), each with the function of the product that asked for
it. Values are real, so that paths whose shapes depend on data run to their end, and maps can be compared with
those of the CPU.

It rests on private names of PyTorch's, which serve its own compiler: use it in a process of its own, and with
the version `TORCH` alone. It says nothing of kernels, cuBLAS, NCCL, streams and pinned memory.
"""

from __future__ import annotations

import contextlib
import sys
import types
import weakref
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

TORCH = "2.12"  # the version whose private names these are
aten = torch.ops.aten
ROOT = f"{Path(__file__).resolve().parents[2]}/"
# Under ROOT, who asks for nothing: libraries lie in .venv when the project made its own.
ASKS_FOR_NOTHING = ("tests/", ".venv/", "utils/device.py")
TO_DEVICE, TO_HOST, HOST_INDEX = "to the device", "to the host", "index on the host"


_stores: dict[int, list[int]] = {}  # address of a storage on the device -> tensors of it, bytes


class Meter:
    """What was counted since `reset`. Keys of `waits` and `crossed` end in FILE:FUNCTION of the product.

    kernels: how many were started. bytes: how many of each direction crossed. peak: the most bytes that lay
    on the device at once.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.kernels = 0
        self.waits: Counter[tuple[str, str]] = Counter()
        self.crossed: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[str] = Counter()
        self.live = self.peak = sum(size for _, size in _stores.values())


meter = Meter()


def at_work() -> str:
    """FILE:FUNCTION of the product that is at work."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        inside = file.removeprefix(ROOT)
        if inside != file and not inside.startswith(ASKS_FOR_NOTHING):
            return f"{inside}:{frame.f_code.co_qualname.split('.<')[0]}"
        frame = frame.f_back
    return "?"


class OnDevice(torch.Tensor):
    """Says that it lies on cuda:0; `inner` is the CPU's tensor that holds its values."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device("cuda", 0),
            requires_grad=False,
        )

    def __init__(self, inner):
        self.inner = inner
        storage = inner.untyped_storage()
        known = _stores.setdefault(storage.data_ptr(), [0, storage.nbytes()])
        if known[0] == 0:
            known[1] = storage.nbytes()
            meter.live += known[1]
            meter.peak = max(meter.peak, meter.live)
        known[0] += 1
        weakref.finalize(self, _let_go, storage.data_ptr())

    def data_ptr(self):
        return self.inner.data_ptr()

    def tolist(self):
        meter.waits["tolist", at_work()] += 1
        return self.inner.tolist()

    def __repr__(self):
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})

    def __deepcopy__(self, memo):
        with _disable_current_modes():
            found = OnDevice(self.inner.detach().clone())
        if getattr(self, "_is_param", False):
            found._is_param = True
        memo[id(self)] = found
        return found


def _let_go(key: int) -> None:
    if key in _stores:
        _stores[key][0] -= 1
        if _stores[key][0] <= 0:
            meter.live -= _stores.pop(key)[1]


class _Factories(TorchDispatchMode):
    """Catches what makes tensors anew."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


NO_KERNEL = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.empty_like.default,
    aten.new_empty_strided.default,
    aten.detach.default,
    aten.lift_fresh.default,
    aten.alias.default,
    aten.resize_.default,
}
READS = aten._local_scalar_dense.default
SHAPED_BY_VALUES = {
    "nonzero",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "masked_select",
    "bincount",
    "repeat_interleave",
    "_linalg_eigh",
    "histc",
}
CROSSES = {aten._to_copy.default, aten.copy_.default, aten.set_.source_Tensor}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


def _is_view(func) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(
        one.alias_info is not None and not one.alias_info.is_write for one in returns
    )


def _call(func, args, kwargs):
    """An operator as the device would take it; of what says cuda the result says so too."""
    flat, spec = tree_flatten((args, kwargs))
    ours = [one for one in flat if isinstance(one, OnDevice)]
    asked = kwargs.get("device")
    target = None if asked is None else torch.device(asked).type
    name = func._schema.name.split("::")[1]
    if name in ("_pin_memory", "is_pinned"):
        return args[0] if name == "_pin_memory" else False
    if not ours and target != "cuda":
        return func(*args, **kwargs)
    if func not in CROSSES:
        _refuse_mixed(func, args, flat, ours)
    _count(func, name, args, kwargs, ours, target)
    plain_args, plain_kwargs = tree_unflatten(
        [one.inner if isinstance(one, OnDevice) else one for one in flat], spec
    )
    plain_kwargs.pop("pin_memory", None)
    if asked is not None:
        plain_kwargs["device"] = torch.device("cpu")
    found = func(*plain_args, **plain_kwargs)
    if func is READS:
        return found
    if func is aten.copy_.default:
        return args[0]
    if written := _written(func, args, kwargs):
        for one in written:
            if isinstance(one, OnDevice) and one.shape != one.inner.shape:
                raise RuntimeError(f"{func} gave {one} another shape, which this pretence does not follow")
        return written[0] if len(written) == 1 else tuple(written)
    if target == "cpu" or (target is None and not ours):
        return found
    return tree_map(lambda one: OnDevice(one) if isinstance(one, torch.Tensor) else one, found)


def _count(func, name, args, kwargs, ours, target) -> None:
    place = at_work()
    if func in (aten._to_copy.default, aten.copy_.default):
        _count_crossing(func, args, kwargs, target, place)
    if func is READS or (name in SHAPED_BY_VALUES and ours):
        meter.waits[name, place] += 1
    if func in INDEXED and any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]):
        meter.waits[f"{name} by a mask", place] += 1
    if ours and func not in NO_KERNEL and not _is_view(func):
        meter.kernels += 1


def _count_crossing(func, args, kwargs, target, place) -> None:
    if func is aten.copy_.default:
        here, source = isinstance(args[0], OnDevice), args[1]
    else:
        source = args[0]
        here = isinstance(source, OnDevice) if target is None else target == "cuda"
    if here != isinstance(source, OnDevice):
        direction = TO_DEVICE if here else TO_HOST
        meter.crossed[direction, place] += 1
        if here and not (kwargs.get("non_blocking") or len(args) > 2 and args[2]):
            meter.waits["a blocking copy", place] += 1
        meter.bytes[direction] += source.numel() * source.element_size()


def _written(func, args, kwargs):
    """The arguments that an operator writes to and returns."""
    schema, found = func._schema, []
    if not any(one.alias_info is not None and one.alias_info.is_write for one in schema.returns):
        return found
    for number, arg in enumerate(schema.arguments):
        if arg.alias_info is not None and arg.alias_info.is_write:
            value = kwargs.get(arg.name) if arg.kwarg_only else args[number] if number < len(args) else None
            if value is not None:
                found.append(value)
    return found


def _refuse_mixed(func, args, flat, ours) -> None:
    """Raises what CUDA raises where a CPU tensor meets one of a GPU."""
    if not ours:
        return
    if func in INDEXED:
        if not isinstance(args[0], OnDevice):
            raise RuntimeError(
                f"{func}: indices should be either on cpu or on the same device as the tensor (cpu)"
            )
        if any(one is not None and not isinstance(one, OnDevice) for one in args[1]):
            meter.crossed[HOST_INDEX, at_work()] += 1
        if len(args) > 2 and not isinstance(args[2], OnDevice) and args[2].dim():
            raise RuntimeError(f"{func}: values on cpu, self on cuda:0")
        return
    pointwise = torch.Tag.pointwise in func.tags
    for one in flat:
        if isinstance(one, torch.Tensor) and not isinstance(one, OnDevice) and (one.dim() or not pointwise):
            raise RuntimeError(
                f"{func}: Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! ({tuple(one.shape)} {one.dtype} on cpu, at {at_work()})"
            )


_plain_attention = F.scaled_dot_product_attention


def _attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """One kernel, as on a GPU; the choice between its kernels would ask the driver."""
    parts = [query, key, value, *([] if attn_mask is None else [attn_mask])]
    ours = [isinstance(one, OnDevice) for one in parts]
    if not any(ours):
        return _plain_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if not all(ours):
        raise RuntimeError("scaled_dot_product_attention: tensors on different devices")
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError("Expected query, key, and value to have the same dtype")
    meter.kernels += 1
    with _disable_current_modes():
        query, key, value, *mask = (one.inner for one in parts)
        found = _plain_attention(
            query, key, value, *mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale
        )
        return OnDevice(found.transpose(1, 2).contiguous().transpose(1, 2))


@contextlib.contextmanager
def pretended_cuda(free: int = 24 * 2**30):
    """Within it this machine has one GPU with so many bytes, as far as PyTorch's Python side says."""
    torch._C._ensureCUDADeviceGuardSet()
    facts = types.SimpleNamespace(
        total_memory=free, major=9, minor=0, multi_processor_count=132, name="Pretended"
    )
    patched = {
        (torch.cuda, "_lazy_init"): lambda: None,
        (torch.cuda, "is_available"): lambda: True,
        (torch.cuda, "is_initialized"): lambda: False,
        (torch.cuda, "device_count"): lambda: 1,
        (torch.cuda, "current_device"): lambda: 0,
        (torch.cuda, "set_device"): lambda device: None,
        (torch.cuda, "get_device_name"): lambda device=None: "Pretended",
        (torch.cuda, "get_device_capability"): lambda device=None: (9, 0),
        (torch.cuda, "get_device_properties"): lambda device=None: facts,
        (torch.cuda, "mem_get_info"): lambda device=None: (free - meter.live, free),
        (torch.cuda, "max_memory_allocated"): lambda device=None: meter.peak,
        (torch.cuda, "reset_peak_memory_stats"): lambda device=None: setattr(meter, "peak", meter.live),
        (torch.cuda, "empty_cache"): lambda: None,
        (torch.cuda, "synchronize"): lambda device=None: None,
        (torch.cuda, "is_current_stream_capturing"): lambda: False,
        (F, "scaled_dot_product_attention"): _attention,
    }
    before = {key: getattr(*key) for key in patched}
    lifted, cudnn = torch._C._only_lift_cpu_tensors(), torch.backends.cudnn.enabled
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    for (place, name), value in patched.items():
        setattr(place, name, value)
    torch._C._set_only_lift_cpu_tensors(True)
    torch.backends.cudnn.enabled = False
    meter.reset()
    try:
        with _Factories():
            yield meter
    finally:
        torch.backends.cudnn.enabled = cudnn
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        torch._C._set_only_lift_cpu_tensors(lifted)
        for (place, name), value in before.items():
            setattr(place, name, value)
