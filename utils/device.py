"""Device, precision, seeds and the machine: every choice made automatically explains itself in the log."""

from __future__ import annotations

import functools
import logging
import os
import platform
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

from utils.config import MachineFacts
from utils.errors import ConfigError
from utils.text import as_text, first_line
from utils.world import neighbours, own_gpu

logger = logging.getLogger("fdsl")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_WORKERS = 8
MPS_NEEDS = "2.8"
Function = TypeVar("Function", bound=Callable[..., Any])


def choose_device(name: str) -> torch.device:
    """auto, cpu, cuda, mps or a CUDA device's number -> the device; ConfigError names the available ones. Of
    several processes on a machine each takes the GPU of its own number."""
    name = as_text("--device", name)
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available() and torch.__version__ >= MPS_NEEDS
    if name == "mps" and torch.backends.mps.is_available() and not mps:
        raise ConfigError(
            f"--device mps needs PyTorch {MPS_NEEDS}, which resizes images there; this is "
            f"{torch.__version__}: use a newer one, or --device cpu."
        )
    if mps and neighbours() > 1 and (name == "mps" or name == "auto" and not cuda):
        raise ConfigError(
            f"{neighbours()} processes here would share one Apple GPU, which exchanges no tensors between "
            "them: start one, or give --device cpu."
        )
    reason = "chosen automatically" if name == "auto" else "as asked"
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if (digits := name.removeprefix("cuda:")).isdecimal():
        number = int(digits)
        if number >= cuda:
            raise ConfigError(f"--device {name}: there are {cuda} CUDA device(s); {_available(cuda, mps)}.")
        if neighbours() > 1:
            raise ConfigError(
                f"--device {name} names one GPU for all {neighbours()} processes here; leave it out: each "
                "takes the one of its own number."
            )
        name = f"cuda:{number}"
    elif name == "cuda" and cuda:
        name = f"cuda:{own_gpu(cuda)}"
    elif name not in ("cpu", "mps") or (name == "mps" and not mps):
        raise ConfigError(f"--device {name} is not here; {_available(cuda, mps)}.")
    device = torch.device(name)
    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name} is there but does not work ({first_line(error, 120)}); use --device cpu, or "
            "mend the driver."
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for calls that synchronise or pin memory without naming a device
        torch.backends.cudnn.allow_tf32 = False  # else float32 convolutions round their factors to 10 bits
        matmul = torch.backends.cuda.matmul  # else long sums may be accumulated in half precision
        matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = False
    logger.info("device %s: %s, %s", device, describe_device(device), reason)
    return device


def _available(cuda: int, mps: bool) -> str:
    return "use --device " + ", ".join(["cpu", *(["mps"] if mps else []), *map(str, range(cuda))])


def describe_device(device: torch.device) -> str:
    """The name of the GPU or processor, of a CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    processor = _cpu("model name") or platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads"


def _cpu(fact: str) -> str:
    """What Linux reports of the first core; "" where it reports nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(fact)), "")


@functools.cache
def bf16_in_hardware() -> str | None:
    """The unit of this CPU that multiplies bf16 matrices ("AMX" or "AVX512-BF16"), or None."""
    flags = _cpu("flags").split()
    return "AMX" if "amx_bf16" in flags else "AVX512-BF16" if "avx512_bf16" in flags else None


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """auto, fp32, bf16 or fp16 -> the dtype of the backbone's products; logs why."""
    if as_text("--precision", name) == "auto":
        if device.type == "cuda":
            name, reason = "fp16", "as fast as bf16 on a GPU, and eight times as precise"
        elif device.type == "cpu" and (unit := bf16_in_hardware()):
            name, reason = "bf16", f"this CPU has {unit}"
        else:
            name, reason = "fp32", "nothing faster is exact here"
    else:
        reason = "as asked"
    if name not in PRECISIONS:
        raise ConfigError(f"--precision {name} is not one of auto, {', '.join(PRECISIONS)}.")
    if name != "fp32" and device.type == "mps":
        raise ConfigError(f"--precision {name} was never tried on an Apple GPU; use fp32.")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16 is slow on a CPU; use bf16 or fp32.")
    logger.info("precision %s: %s", name, reason)
    return PRECISIONS[name]


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The values on a device. A GPU takes them as soon as it is done with what it was given before; the host
    does not wait for that."""
    return values.to(device, non_blocking=device.type == "cuda")


def whatever_the_default_device(function: Function) -> Function:
    """`function` as if nobody had called torch.set_default_device: a detector says where its tensors lie.
    Where nobody has, nothing is done, for that costs 2 us in each call of PyTorch."""

    @functools.wraps(function)
    def wrapped(*args: Any, **named: Any) -> Any:
        if torch.empty(0).device.type == "cpu":
            return function(*args, **named)
        with torch.device("cpu"):
            return function(*args, **named)

    return cast(Function, wrapped)


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators (nothing of ours relies on them between
    calls)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_repeatable(device: torch.device) -> None:
    """Makes training give the same weights each time on one device. A CPU does so anyway; on a GPU the sums
    of the gradients get a fixed order."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def worker_count(asked: int | None) -> int:
    """The number of processes that load images: as asked, else this process's share of the cores but one, at
    most MOST_WORKERS."""
    if asked is not None:
        return asked
    return max(1, min(MOST_WORKERS, (os.cpu_count() or 2) // neighbours() - 1))


def use_threads(asked: int | None) -> None:
    """Sets the number of threads (None: unchanged); the last bits of a CPU's results depend on it."""
    if asked is not None:
        torch.set_num_threads(asked)


def machine_facts(device: torch.device, dtype: torch.dtype) -> MachineFacts:
    """The facts of this machine that are stored with a result."""
    return MachineFacts(
        device=str(device),
        device_name=describe_device(device),
        precision=str(dtype).removeprefix("torch."),
        torch=str(torch.__version__),
        python=platform.python_version(),
        system=platform.platform(),
    )
