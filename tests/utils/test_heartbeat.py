"""A process of torchrun's that hangs is named and given up; a slow one is waited for."""

import os
import signal
import time

import pytest

from tests.support.ranks import in_ranks
from utils.console import start_logging
from utils.signals import before_leaving
from utils.world import connected, find_world


@pytest.fixture
def fast_beats(monkeypatch):
    for name, value in (("BEAT", 0.05), ("LATE", 6), ("LOST", 30)):
        monkeypatch.setattr(f"utils.world.{name}", value)


@pytest.mark.parametrize("stopped", [0, 1, 2])
def test_a_rank_that_hangs_is_named_and_given_up(tmp_path, port, fast_beats, stopped):
    def action(rank):
        start_logging()
        with connected(find_world()) as world:
            others = world.gathered(os.getpid())
            before_leaving(lambda: os.kill(others[stopped], signal.SIGKILL))  # as torchrun does then
            world.wait()
            if rank == stopped:
                os.kill(os.getpid(), signal.SIGSTOP)
            world.wait()

    codes, reported = in_ranks(3, action, tmp_path, port)
    watcher = (stopped - 1) % 3
    assert codes[stopped] == -signal.SIGKILL and codes[watcher] == 2
    named = [line for line in reported[watcher].splitlines() if f"rank {stopped} (process" in line]
    assert "has not answered for 0 seconds; it is waited for" in named[0] and len(named) == 2
    assert named[1].startswith("error: ") and "same command again" in named[1]


def test_a_rank_that_hangs_before_it_begins_is_given_up(tmp_path, port, fast_beats):
    def action(rank):
        start_logging()
        if rank == 1:
            (tmp_path / "other").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        before_leaving(lambda: os.kill(int((tmp_path / "other").read_text()), signal.SIGKILL))
        with connected(find_world()):
            pass

    codes, reported = in_ranks(2, action, tmp_path, port)
    assert codes == [2, -signal.SIGKILL] and "error: rank 1 (which never began)" in reported[0]


def test_a_rank_that_is_slow_or_goes_on_is_waited_for(tmp_path, port, fast_beats):
    def action(rank):
        start_logging()
        with connected(find_world()) as world:
            others = world.gathered(os.getpid())
            if rank == 0:
                os.kill(others[1], signal.SIGSTOP)
                time.sleep(0.8)
                os.kill(others[1], signal.SIGCONT)
                time.sleep(2)
            assert world.gathered(rank) == [0, 1]

    codes, reported = in_ranks(2, action, tmp_path, port)
    assert codes == [0, 0] and "it is waited for" in reported[0] and "error" not in reported[0] + reported[1]


def test_the_first_rank_is_watched_while_it_writes(tmp_path, port, fast_beats):
    def action(rank):
        start_logging()
        with connected(find_world()) as world:
            others = world.gathered(os.getpid())
            before_leaving(lambda: os.kill(others[0], signal.SIGKILL))
            world.wait()
            if rank == 0:  # the other one has done its work
                os.kill(os.getpid(), signal.SIGSTOP)

    codes, reported = in_ranks(2, action, tmp_path, port)
    assert codes == [-signal.SIGKILL, 2] and "error: rank 0 (process" in reported[1]
