"""Device, precision, seeds, logging and progress: every choice made automatically explains itself in the
log."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from utils import signals
from utils.config import ConfigError
from utils.memory import CURE, is_out_of_memory

logger = logging.getLogger("fdsl")
Item = TypeVar("Item")

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_WORKERS = 8
PLAIN_PROGRESS_SECONDS = 15.0  # without a terminal, one line at most this often
GPU_FAULTS = ("CUDA error", "CUDA driver", "cuDNN error", "CUBLAS_STATUS", "HIP error", "MPS backend")
OS_CURES = {
    errno.ENOSPC: "the disk is full: free some space, then give the same command again",
    errno.EDQUOT: "your share of the disk is used up: free some space, then give the same command again",
    errno.EFBIG: "the file may not become so large here: write to another disk",
    errno.EACCES: "give permission, or name another folder",
    errno.EPERM: "give permission, or name another folder",
    errno.EROFS: "it cannot be written to: name another folder",
    errno.ENOTDIR: "a part of its path is a file: name another folder",
    errno.EEXIST: "a file is in the place of a folder: name another folder",
    errno.EISDIR: "a folder is in the place of a file: name another",
    errno.ENOENT: "it is not there: name another",
    errno.EMFILE: "too many files are open: use fewer --workers",
    errno.ENFILE: "too many files are open: use fewer --workers",
    errno.ENAMETOOLONG: "the name is too long: name another folder",
}


def run_command(main: Callable[[list[str] | None], int | None], errors: tuple[type[Exception], ...]) -> None:
    """Runs an entry point. `errors` are the user's to mend: one sentence and exit code 2 (--debug: the
    traceback).

    So are a full disk, a folder without permission, a lost GPU and too little memory. Ctrl-C (exit code 130)
    and SIGTERM (143) end within a second with the line that `signals.how_to_continue` was told.
    """
    start_logging()
    signals.answer()
    debug = "--debug" in sys.argv
    try:
        code = main(None) or 0
    except KeyboardInterrupt as stopped:
        if debug:
            traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()  # what --format json has said so far
        signals.leave(getattr(stopped, "number", signal.SIGINT), lambda line: logger.error("%s", line))
    except (*errors, OSError, RuntimeError, MemoryError) as error:
        sentence = " ".join(str(error).split()) if isinstance(error, errors) else explain(error)
        if debug or sentence is None:
            raise
        logger.error("error: %s", sentence)
        code = 2
    logging.shutdown()
    sys.exit(code)


def explain(error: Exception) -> str | None:
    """One sentence with the cure for what the machine refuses (disk, permission, memory, GPU), None for
    anything else."""
    told = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    if isinstance(error, OSError):
        cure = OS_CURES.get(error.errno, "mend it, then give the same command again")
        return f"{error.filename or 'a file'}: {error.strerror or told}; {cure}."
    if is_out_of_memory(error):
        return f"There is not enough memory ({told}); {CURE}."
    if "DataLoader worker" in str(error):
        return (
            "A process that loads images was ended from outside, most often for lack of memory; give the same "
            "command again with fewer --workers (0: none)."
        )
    if any(word in str(error) for word in GPU_FAULTS):
        return f"The GPU stopped working ({told}); give the same command again, or use --device cpu."
    return None


class _Console(logging.Handler):
    """Plain lines on standard error that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _File(logging.FileHandler):
    """A log file; what a full disk does not take is still on standard error."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def start_logging(file: Path | None = None) -> None:
    """The log goes to standard error and, from the call that names it on, also to `file`."""
    logger.setLevel(logging.DEBUG)  # the file gets every step, the console does not
    logger.propagate = False
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        console = _Console()
        console.setLevel(logging.INFO)
        console.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(console)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        for handler in [known for known in logger.handlers if isinstance(known, logging.FileHandler)]:
            logger.removeHandler(handler)
            handler.close()
        log = _File(file, mode="a", encoding="utf-8", errors="backslashreplace")
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
    if name.isdecimal() or name.startswith("cuda:"):
        number = int(name) if name.isdecimal() else _device_number(name)
        if number >= cuda:
            raise ConfigError(
                f"--device {name}: this machine has {cuda} CUDA device(s); {_there(cuda, mps)}."
            )
        name = f"cuda:{number}"
    elif name == "cuda" and cuda:
        name = "cuda:0"
    elif name not in ("cpu", "mps") or (name == "mps" and not mps):
        raise ConfigError(f"--device {name} is not here; {_there(cuda, mps)}.")
    device = torch.device(name)
    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        told = (str(error).splitlines() or ["no reason told"])[0][:120]
        raise ConfigError(
            f"--device {name} is there but does not work ({told}); use --device cpu, or mend the driver."
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what waits for "the" GPU, or pins memory, means this one
        torch.backends.cudnn.allow_tf32 = False  # else float32 convolutions keep 10 bits of their factors
    logger.info("device %s: %s, %s", device, describe_device(device), reason)
    return device


def _device_number(name: str) -> int:
    number = name.removeprefix("cuda:")
    if not number.isdecimal():
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


def bf16_in_hardware() -> str | None:
    """What multiplies bf16 matrices in this CPU's hardware ("AMX" or "AVX512-BF16"), or None."""
    try:
        flags = next(
            (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), ""
        ).split()
    except OSError:
        return None
    return "AMX" if "amx_bf16" in flags else "AVX512-BF16" if "avx512_bf16" in flags else None


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """auto, fp32, bf16 or fp16 -> the dtype of the backbone's products; says why."""
    if name == "auto":
        if device.type == "cuda":
            name, reason = "fp16", "a GPU multiplies it as fast as bf16, and it is eight times as fine"
        elif device.type == "cpu" and (unit := bf16_in_hardware()):
            name, reason = "bf16", f"this CPU has {unit}"
        else:
            name, reason = "fp32", "nothing faster is exact here"
    else:
        reason = "as asked"
    if name not in PRECISIONS:
        raise ConfigError(f"--precision {name} is not one of auto, {', '.join(PRECISIONS)}.")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16 is slow on a CPU; use bf16 or fp32.")
    logger.info("precision %s: %s", name, reason)
    return PRECISIONS[name]


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators (nothing of ours relies on them between
    calls)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_repeatable(device: torch.device) -> None:
    """Makes a training give the same weights each time on one device. A CPU does so anyway; on a GPU the sums
    behind the gradients are taken in a fixed order."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def warn(sentences: Sequence[str], most: int = 5) -> None:
    """Logs warnings, at most `most` of them and how many more there are."""
    for sentence in sentences[:most]:
        logger.warning("warning: %s", sentence)
    if len(sentences) > most:
        logger.warning("warning: ... and %d more like it", len(sentences) - most)


def worker_count(asked: int | None) -> int:
    """Processes that load images: as asked, else the cores but one, at most MOST_WORKERS."""
    return asked if asked is not None else max(1, min(MOST_WORKERS, (os.cpu_count() or 2) - 1))


def machine_facts(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What a result's reader needs to know of the machine."""
    return {
        "device": str(device),
        "device_name": describe_device(device),
        "precision": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def progress(
    items: Iterable[Item],
    total: int,
    what: str,
    size: Callable[[Item], int] = lambda _: 1,
    note: Callable[[], str] = str,
) -> Iterator[Item]:
    """Passes `items` on with a bar (items/s and time left); without a terminal, as plain lines now and then.

    `total` and the rate count `size(item)`, for instance the images of a batch; `note()` is shown beside
    them.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit="image", leave=False, dynamic_ncols=True) as bar:
            for item in items:
                yield item
                bar.set_postfix_str(note(), refresh=False)
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
            logger.info(
                "%s: %d of %d, %.2f a second, %.0f s left%s",
                what,
                done,
                total,
                rate,
                (total - done) / rate,
                f", {note()}" if note() else "",
            )
