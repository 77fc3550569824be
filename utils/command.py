"""How a command runs: errors as one sentence, exit codes, interruptions."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from utils import signals
from utils.console import only_from, open_what_is_closed, put, speaks, start_logging
from utils.errors import MEMORY_CURE, ConfigError, DataError, ModelError, is_out_of_memory
from utils.text import first_line, one_line, shortened

logger = logging.getLogger("fdsl")
OF_THE_USER = (ConfigError, DataError, ModelError)
UNEXPECTED = 70  # exit code: EX_SOFTWARE of sysexits.h

GPU_FAULTS = ("CUDA error", "CUDA driver", "cuDNN error", "CUBLAS_STATUS", "HIP error", "MPS backend")

ROOT = Path(__file__).resolve().parents[1]
OURS = ("data", "fdsl", "fdsl_commands", "models", "page", "utils")
EXTRAS = {"app": ("flask", "waitress"), "export": ("onnx", "onnxscript", "onnxruntime")}  # not for all

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


def run_command(main: Callable[[list[str] | None], int | None], memory_cure: str = MEMORY_CURE) -> None:
    """Runs an entry point and ends the process with its exit code.

    The errors of utils/errors.py, a full disk, a folder without permission, a lost GPU and too little memory
    are the user's to mend: one sentence and exit code 2. Any other error is one sentence too, with exit code
    UNEXPECTED: never 1, which means that a photograph is anomalous. --debug adds the traceback. Ctrl-C (exit
    code 130) and SIGTERM (143) end within a second with the line of `signals.how_to_continue`. `memory_cure`:
    what to do where there is not enough memory.
    """
    open_what_is_closed()
    start_logging()
    signals.answer()
    try:
        if not speaks():
            only_from(logging.ERROR)
        code = main(None) or 0
    except Exception as error:
        if "--debug" in sys.argv:
            put(traceback.format_exc(), sys.stderr)
        own = shortened(" ".join(str(error).split()))
        sentence = own if isinstance(error, OF_THE_USER) else explain(error, memory_cure)
        code = UNEXPECTED if sentence is None else 2
        logger.error("error: %s", sentence or unexpected(error))
    logging.shutdown()
    sys.exit(code)


def unexpected(error: Exception) -> str:
    """One sentence about a fault of the program, with the file and line that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f", {Path(place[0].filename).name} line {place[0].lineno}" if place else ""
    return (
        f"a fault of this program ({type(error).__name__}: {one_line(error)}{where}); finished results stay; "
        "--debug shows the traceback, please report it."
    )


def without_package(error: ImportError) -> str | None:
    """One sentence, with the cure, for a package that is missing or cannot be loaded; None for a module of
    this project."""
    name = (error.name or "").partition(".")[0]
    if name in ("", *OURS):
        return None
    if not isinstance(error, ModuleNotFoundError):
        return f"The package {name} cannot be loaded ({one_line(error)}); install it anew."
    extra = next((extra for extra, names in EXTRAS.items() if name in names), "")
    return f"The package {name} is missing: {how_to_install(extra)}."


def how_to_install(extra: str = "") -> str:
    """What to do where packages are missing; `extra`: of requirements-EXTRA.txt."""
    file, environment = ROOT / f"requirements{extra and f'-{extra}'}.txt", ROOT / ".venv"
    if environment.is_dir() and Path(sys.prefix).resolve() != environment.resolve():
        return f"activate the environment first, source {os.path.relpath(environment)}/bin/activate"
    if file.is_file():
        return f"activate the environment that has the packages, or pip install -r {os.path.relpath(file)}"
    return f"pip install 'fdsl{extra and f'[{extra}]'}'"


def explain(error: Exception, memory_cure: str = MEMORY_CURE) -> str | None:
    """One sentence, with the cure, for errors of the machine (disk, permission, memory, GPU); None for any
    other."""
    reason = first_line(error)
    if isinstance(error, ImportError):
        return without_package(error)
    if isinstance(error, OSError):
        cure = OS_CURES.get(error.errno, "mend it, then give the same command again")
        return f"{error.filename or 'a file'}: {error.strerror or reason}; {cure}."
    if is_out_of_memory(error):
        return f"There is not enough memory ({reason}); {memory_cure}."
    if "DataLoader worker" in str(error):
        return (
            "A process that loads images was ended from outside, most often for lack of memory; give the "
            "same command again with fewer --workers (0: none)."
        )
    if any(word in str(error) for word in GPU_FAULTS):
        return f"The GPU stopped working ({reason}); give the same command again, or use --device cpu."
    return None
