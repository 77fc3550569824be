"""A store as torchrun keeps it."""

import os
import signal
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from tests.support.ranks import free_port


@pytest.fixture
def port(monkeypatch):
    """That of a store as torchrun keeps it for all its starts. It is in a process of its own: ranks forked
    beside its threads may wait for a lock of theirs."""
    port, keeper = free_port(), os.fork()
    if keeper == 0:
        _store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        while True:
            signal.pause()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setattr("utils.world.PATIENCE", timedelta(minutes=1))
    yield port
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)
