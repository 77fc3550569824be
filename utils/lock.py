"""One run at a time for an output folder: a lock that the system releases when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from utils.errors import ConfigError
from utils.signals import before_leaving
from utils.text import one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger("fdsl")
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_held: set[str] = set()


@before_leaving
def remove_held() -> None:
    """Removes the files of the locks that this process holds: an interruption ends it within their blocks."""
    for name in list(_held):
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(file: Path, what: str, cure: str) -> Iterator[None]:
    """Holds the lock `file` for the length of the block; its folder is made.

    Raises ConfigError that names the holder: `what` is being written, `cure` is what else could be done. The
    lock is the system's: it is free the moment its holder ends, however that ends, and processes that load
    images never hold it. Where the system or the disk has no such locks, that is logged, and nothing is held.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    name = os.path.realpath(file)
    if name in _held:
        raise _refusal(what, cure, _me().encode())
    handle = _take(file, what, cure)
    _held.add(name)
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, _me().encode())
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
            holder = os.read(handle, 4096)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        raise _refusal(what, cure, holder)


def _lock(handle: int) -> bool:
    """Whether the lock could be taken. POSIX locks belong to the process: children do not inherit them."""
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "")
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in NO_LOCKS_HERE:
            raise
        logger.warning("warning: there are no locks of files here: give no second command for the same place")
    return True


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _refusal(what: str, cure: str, holder: bytes) -> ConfigError:
    """`holder`: what the process that has the lock wrote into it."""
    who = one_line(holder.decode(errors="replace")) if holder.startswith(b"process ") else "another process"
    return ConfigError(f"{what} is being written by {who}; wait until it has ended, or {cure}.")
