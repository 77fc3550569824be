"""Which of torchrun's processes does not answer: each counts in torchrun's store, and the one before it reads
that count.

A process that only waits or computes goes on counting. One that was stopped, or whose machine is lost, does
not, and all others would wait for it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from utils import signals

if TYPE_CHECKING:
    from torch.distributed import Store

logger = logging.getLogger("fdsl")
BEAT = 5.0  # seconds between two counts
LATE, LOST = 12, 360  # counts of this process without one of the other: a minute, half an hour
LEFT = 2**40  # what a process counts that ends well
NOBODY = "which never began"


@contextmanager
def watched(rank: int, size: int) -> Iterator[None]:
    """Within it this process counts, and watches the next one: it is named after a minute without a count,
    and after half an hour this process ends with exit code 2, whereupon torchrun ends the others."""
    store, leaving = _own_store(), threading.Event()
    watch = threading.Thread(target=_watch, args=(store, rank, size, leaving), name="watch", daemon=True)
    store.set(_name("facts", rank), f"process {os.getpid()} on {socket.gethostname()}")
    watch.start()
    yield  # after an error it goes on until the process ends
    leaving.set()
    watch.join()
    store.add(_name("count", rank), LEFT)


def _own_store() -> Store:
    """A connection of its own to torchrun's store: another one may be held by a call that waits."""
    from torch.distributed import TCPStore

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False)


def _name(what: str, rank: int) -> str:
    return f"fdsl/{what}/{rank}"


def _watch(store: Store, rank: int, size: int, leaving: threading.Event) -> None:
    """Counts until `leaving`. Its own counts are its clock: after a pause of the whole job nobody is late."""
    other, silent = (rank + 1) % size, 0
    count = first = store.add(_name("count", other), 0)
    while not leaving.wait(BEAT):
        try:
            store.add(_name("count", rank), 1)
            before, count = count, store.add(_name("count", other), 0)
        except RuntimeError:  # the store is gone: what waits for others ends with an error of its own
            return
        silent = silent + 1 if count == before and count - first < LEFT else 0
        if silent == LATE:
            logger.error(
                "rank %d (%s) has not answered for %.0f seconds; it is waited for until it is killed, %.0f "
                "seconds at most",
                *(other, _facts_of(store, other), LATE * BEAT, LOST * BEAT),
            )
        if silent == LOST:
            logger.error(
                "error: rank %d (%s) has not answered for %.0f seconds; finished results stay, give the same "
                "command again.",
                *(other, _facts_of(store, other), LOST * BEAT),
            )
            logging.shutdown()
            signals.end(2)


def _facts_of(store: Store, rank: int) -> str:
    """Where a process runs, as it wrote it down."""
    name = _name("facts", rank)
    return store.get(name).decode() if store.check([name]) else NOBODY
