"""Device, precision, seeds, logging and progress: every choice made automatically explains itself in the log."""

from __future__ import annotations

import logging
import os
import platform
import random
import shlex
import sys
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from utils.config import ConfigError

logger = logging.getLogger("fdsl")
Item = TypeVar("Item")

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_WORKERS = 8
PLAIN_PROGRESS_SECONDS = 15.0  # without a terminal, one line at most this often
INTERRUPTED = 130


def run_command(main: Callable[[list[str] | None], int | None], errors: tuple[type[Exception], ...]) -> None:
    """Runs an entry point. `errors` are the user's to mend: one sentence and exit code 2 (--debug: the traceback).

    Ctrl-C ends with one line and exit code 130.
    """
    start_logging()
    try:
        code = main(None) or 0
    except errors as error:
        if "--debug" in sys.argv:
            raise
        logger.error("error: %s", " ".join(str(error).split()))
        code = 2
    except KeyboardInterrupt:
        if "--debug" in sys.argv:
            raise
        logger.error("Interrupted; run the same command again to start over: %s", command_line())
        code = INTERRUPTED
    logging.shutdown()
    sys.exit(code)


def command_line() -> str:
    """The command that is running, as it can be pasted into a shell."""
    return shlex.join(["python", *sys.argv])


class _Console(logging.Handler):
    """Plain lines on standard error that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def start_logging(file: Path | None = None) -> None:
    """The log goes to standard error and, from the call that names it on, also to `file`."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        console = _Console()
        console.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(console)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        for handler in [known for known in logger.handlers if isinstance(known, logging.FileHandler)]:
            logger.removeHandler(handler)
            handler.close()
        log = logging.FileHandler(file, mode="a", encoding="utf-8")
        log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(log)


def choose_device(name: str) -> torch.device:
    """auto, cpu, cuda, mps or a CUDA device's number -> the device; ConfigError says what is there."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
        reason = "chosen automatically"
    else:
        reason = "as asked"
    if name.isdigit() or name.startswith("cuda:"):
        number = int(name) if name.isdigit() else _device_number(name)
        if number >= cuda:
            raise ConfigError(f"--device {name}: this machine has {cuda} CUDA device(s); {_there(cuda, mps)}.")
        name = f"cuda:{number}"
    elif name == "cuda" and cuda:
        name = "cuda:0"
    elif name not in ("cpu", "mps") or (name == "mps" and not mps):
        raise ConfigError(f"--device {name} is not here; {_there(cuda, mps)}.")
    device = torch.device(name)
    logger.info("device %s: %s, %s", device, describe_device(device), reason)
    return device


def _device_number(name: str) -> int:
    number = name.removeprefix("cuda:")
    if not number.isdigit():
        raise ConfigError(f"--device {name}: give cuda, cuda:N or N.")
    return int(number)


def _there(cuda: int, mps: bool) -> str:
    return "use --device " + ", ".join(["cpu", *(["mps"] if mps else []), *map(str, range(cuda))])


def describe_device(device: torch.device) -> str:
    """The device's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def has_amx() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AMX), which makes bf16 weights the faster choice."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe())


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """auto, fp32, bf16 or fp16 -> the dtype of the backbone's weights; says why."""
    if name == "auto":
        if device.type == "cuda" and torch.cuda.is_bf16_supported():
            name, reason = "bf16", "this GPU has it"
        elif device.type == "cuda":
            name, reason = "fp16", "this GPU has no bf16"
        elif device.type == "cpu" and has_amx():
            name, reason = "bf16", "this CPU has AMX"
        else:
            name, reason = "fp32", "nothing faster is exact here"
    else:
        reason = "as asked"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16 is slow on a CPU; use bf16 or fp32.")
    logger.info("precision %s: %s", name, reason)
    return PRECISIONS[name]


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators (nothing of ours relies on them between calls)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def worker_count(asked: int | None) -> int:
    """Processes that load images: as asked, else the cores but one, at most MOST_WORKERS."""
    return asked if asked is not None else max(1, min(MOST_WORKERS, (os.cpu_count() or 2) - 1))


def machine_facts(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What a result's reader needs to know of the machine."""
    return {"device": str(device), "device_name": describe_device(device), "precision": str(dtype).removeprefix("torch."),
            "torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}


def progress(items: Iterable[Item], total: int, what: str, size: Callable[[Item], int] = lambda _: 1) -> Iterator[Item]:
    """Passes `items` on with a bar (items/s and time left); without a terminal, as plain lines now and then.

    `total` and the rate count `size(item)`, for instance the images of a batch.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit="image", leave=False, dynamic_ncols=True) as bar:
            for item in items:
                yield item
                bar.update(size(item))
        return
    start = told = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += size(item)
        now = time.monotonic()
        if now - told >= PLAIN_PROGRESS_SECONDS and done < total:
            told, rate = now, done / (now - start)
            logger.info("%s: %d of %d, %.2f a second, %.0f s left", what, done, total, rate, (total - done) / rate)

