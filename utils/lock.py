"""One run at a time for an output folder: a lock that the system releases when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from utils.errors import ConfigError
from utils.files import parsed_json

try:
    import fcntl
except ImportError:
    fcntl = None
try:
    import msvcrt
except ImportError:  # all but Windows
    msvcrt = None

FAR = 2**30  # the byte that Windows locks: locked bytes cannot be read, and others read who holds the file
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[str] = set()


@contextlib.contextmanager
def locked(file: Path, what: str, cure: str) -> Iterator[None]:
    """Holds the lock `file` for the length of the block; its folder is made.

    Raises ConfigError that names the holder: `what` is being written, `cure` is what else could be done. The
    lock is the system's: it is free the moment its holder ends, however that ends, and processes that load
    images never hold it. On systems without such locks the file's process id and start time decide.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    name = os.path.realpath(file)
    if name in _held:
        raise _refusal(what, cure, _me())
    handle = _take(file, what, cure)
    _held.add(name)
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(_me()).encode())
        yield
    finally:
        _held.discard(name)
        with contextlib.suppress(OSError):
            file.unlink()
        os.close(handle)


def _take(file: Path, what: str, cure: str) -> int:
    """An open handle of the locked file; ConfigError where another process has it."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if _lock(handle):
                if os.path.exists(file) and os.path.samestat(os.fstat(handle), os.stat(file)):
                    return handle
                os.close(handle)  # its holder removed the file between our opening and our locking it
                continue
            holder = _read(handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        raise _refusal(what, cure, holder)


def _lock(handle: int) -> bool:
    """Whether the lock could be taken. POSIX locks belong to the process: children do not inherit them."""
    if fcntl is not None:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            if error.errno not in NO_LOCKS_HERE:
                raise
    if msvcrt is not None:
        try:
            os.lseek(handle, FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            return True
        except OSError:
            return False
    return not _lives(_read(handle))


def _me() -> dict:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "begun": _begun(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _read(handle: int) -> dict:
    """The facts that the lock's holder wrote into it; {} where they cannot be read."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        holder = parsed_json(os.read(handle, 4096) or b"{}")
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _lives(holder: dict) -> bool:
    """Whether the process that wrote `holder` still runs; one on another machine is taken to."""
    number = holder.get("process")
    if not isinstance(number, int) or number <= 0 or os.name == "nt":  # os.kill is a Ctrl-C on Windows
        return False
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(number, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return holder.get("begun") == _begun(number)


def _begun(number: int) -> str:
    """The start time of a process, in the system's own count; "" where it is unknown. Unlike ids, start times
    are not used again."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _refusal(what: str, cure: str, holder: dict) -> ConfigError:
    who = (
        f"process {holder['process']} on {holder.get('host')} since {holder.get('since')}"
        if "process" in holder
        else "another process"
    )
    return ConfigError(f"{what} is being written by {who}; wait until it has ended, or {cure}.")
