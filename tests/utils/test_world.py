"""Which process of how many this is, by torchrun's variables, and what processes hear from each other."""

import os
import time
from types import SimpleNamespace

import pytest
import torch

from tests.support.ranks import in_ranks
from utils.console import speaks
from utils.errors import ConfigError, DataError
from utils.world import World, as_of_first, connected, find_world, neighbours, own_gpu

TORCHRUN = {"MASTER_ADDR": "h", "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def environ(monkeypatch):
    """Sets variables as torchrun does, and no others of its."""

    def given(variables):
        for name in TORCHRUN:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return given


@pytest.mark.parametrize(
    "variables, world",
    [
        ({}, World()),
        (TORCHRUN, World(3, 8)),
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}, World()),
        ({"RANK": "3", "WORLD_SIZE": "8"}, World()),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "8"}, World()),
    ],
)
def test_variables_say_which_process_it_is(environ, variables, world):
    environ(variables)
    assert find_world() == world and world.joined == (world.size > 1)


def test_variables_that_cannot_be(environ):
    environ({**TORCHRUN, "RANK": "-1"})
    with pytest.raises(ConfigError, match="RANK is '-1', which is no number; torchrun sets it"):
        find_world()


def test_each_rank_takes_the_gpu_of_its_number(environ):
    environ({})
    assert own_gpu(8) == 0 and as_of_first("cuda:1") == "cuda:1"
    environ(TORCHRUN)
    assert own_gpu(2) == 1 and as_of_first("cuda:1") == "cuda:0" and as_of_first("cpu") == "cpu"
    with pytest.raises(ConfigError, match="Rank 3 has no GPU of its own: .* has 1; start at most 1 here"):
        own_gpu(1)


def test_one_process_says_what_all_would_say(environ):
    for variables, says, beside in (
        ({}, True, 1),
        ({"RANK": "3", "LOCAL_WORLD_SIZE": "2"}, True, 1),
        (TORCHRUN, False, 2),
    ):
        environ(variables)
        assert (speaks(), neighbours()) == (says, beside)


def test_processes_hear_from_each_other(tmp_path):
    def action(rank):
        with connected(find_world()) as world:
            assert world.gathered(rank * 10) == [0, 10, 20]
            assert world.agree(lambda: rank, lambda _: {"files": "same"}) == rank
            own = torch.full((2, 3), float(rank))
            assert [world.tensor_of(other, own).unique().tolist() for other in range(3)] == [[0], [1], [2]]

    codes, reported = in_ranks(3, action, tmp_path)
    assert codes == [0, 0, 0], reported


def test_a_rank_that_is_lost_is_missed_before_gpus_exchange_tensors(monkeypatch):
    done, value = [], SimpleNamespace(is_cuda=True, contiguous=lambda: value)
    monkeypatch.setattr("utils.world._between_gpus", lambda: "nccl")
    monkeypatch.setattr(World, "wait", lambda self: done.append("all are there"))
    monkeypatch.setattr("torch.distributed.broadcast", lambda own, rank, group: done.append(group))
    assert World(0, 2).tensor_of(0, value) is value and done == ["all are there", "nccl"]

    def lost(*_):
        raise RuntimeError("NCCL communicator was aborted")

    monkeypatch.setattr("torch.distributed.broadcast", lost)
    with pytest.raises(ConfigError, match="Another rank has ended .*aborted.*same command again"):
        World(0, 2).tensor_of(0, value)


def test_one_that_fails_ends_all_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)

    def start(rank):
        if rank > 0:
            raise DataError("the photographs are gone")

    def action(rank):
        with connected(find_world()) as world:
            world.agree(lambda: start(rank))

    codes, reported = in_ranks(3, action, tmp_path / "failing")
    assert (
        codes == [2, 70, 2] and reported[0] == reported[2] == "" and "the photographs are gone" in reported[1]
    )

    def differ(rank):
        with connected(find_world()) as world:
            world.agree(lambda: rank, lambda found: {"weights": found // 2, "torch": 1})

    codes, reported = in_ranks(3, differ, tmp_path / "differing")
    assert codes == [70, 2, 2] and reported[1:] == ["", ""]
    assert "Rank 2 on" in reported[0] and "has another weights than rank 0" in reported[0]


def test_a_restart_on_one_machine_is_one_on_all(tmp_path, monkeypatch):
    def action(rank):
        if rank == 1:
            monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        with connected(find_world()) as world:
            assert world.restarted()

    assert not World().restarted()
    assert in_ranks(3, action, tmp_path)[0] == [0, 0, 0]


@pytest.mark.parametrize("late", [0, 1, 2])
def test_addresses_of_dead_processes_are_not_called(tmp_path, port, late):

    def start(rank):
        with connected(find_world()) as world:
            world.wait()
            os._exit(9)

    def start_again(rank):
        if rank == late:
            time.sleep(0.5)
        with connected(find_world()) as world:
            assert world.gathered(rank * 10) == [0, 10, 20]

    assert in_ranks(3, start, tmp_path / "first", port)[0] == [9, 9, 9]
    codes, reported = in_ranks(3, start_again, tmp_path / "second", port)
    assert codes == [0, 0, 0], reported


def test_one_that_dies_lets_nobody_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.world.LET_IT_LOG", 0)

    def action(rank):
        with connected(find_world()) as world:
            world.wait()
            if rank == 1:
                raise SystemExit(7)
            world.wait()

    codes, reported = in_ranks(3, action, tmp_path)
    assert codes == [70, 7, 2] and "Another rank has ended" in reported[0] and reported[2] == ""
