"""The temporary folder of a page that is open; nothing of it is left when the page is closed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from utils.errors import ConfigError
from utils.lock import locked

PREFIX = "fdsl-page-"
LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder of this process's own, also for the standard library's temporary files; gone after
    the block.

    What an earlier process that was killed left behind is removed first.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ConfigError):
            if _is_ours(left):
                with locked(left / LOCK, str(left), "wait"):
                    shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        with locked(folder / LOCK, str(folder), "wait"):
            yield folder
    finally:
        tempfile.tempdir = before
        remove(folder)


def _is_ours(folder: Path) -> bool:
    """Whether this user made the folder: in a shared /tmp others could lay a link or a folder of that name
    for us."""
    state = folder.lstat()
    return stat.S_ISDIR(state.st_mode) and (not hasattr(os, "getuid") or state.st_uid == os.getuid())


def remove(folder: Path) -> None:
    """Removes a folder that others may still be writing to."""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
