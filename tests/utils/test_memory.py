"""What counts as out of memory, and work that is halved until it fits."""

import pytest
import torch

from utils.errors import is_out_of_memory
from utils.memory import Halving, free_bytes, sparing


def test_halves_are_put_together_in_order_and_other_errors_pass():
    calls = []

    def double(batch, plus=0):
        calls.append(len(batch))
        if len(batch) > 3:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
            )
        return batch * 2 + plus

    halving = Halving(double, torch.cat)
    assert torch.equal(halving(torch.arange(10), plus=1), torch.arange(10) * 2 + 1) and calls == [
        10,
        5,
        2,
        2,
        2,
        2,
        2,
    ]
    assert torch.equal(halving(torch.arange(3)), torch.arange(3) * 2) and calls[-2:] == [2, 1]
    assert halving(torch.zeros(0)).shape == (0,)
    with pytest.raises(RuntimeError, match="something else"):
        Halving(lambda _: (_ for _ in ()).throw(RuntimeError("something else")), torch.cat)(torch.zeros(4))


def test_what_takes_more_is_made_smaller_first():
    asked, room = [], [10]

    def smaller(items):
        asked.append(items)
        if items and room[0] <= 2:
            return False
        room[0] //= 2
        return room[0] > 0

    def work(batch):
        if len(batch) > 1 or room[0] > 1:
            raise MemoryError
        return batch

    found = Halving(work, torch.cat, smaller)(torch.arange(4))
    assert found.tolist() == [0, 1, 2, 3] and asked == [4, 4, 4, 2, 1, 0]


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory")) and not is_out_of_memory(
        RuntimeError("shape")
    )
    assert is_out_of_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    )
    assert not is_out_of_memory(ValueError("out of memory"))


def test_where_nobody_says_what_is_free_half_of_all_pages_are(monkeypatch):
    def refuse(*_, **__):
        raise OSError

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 16384}.get)
    assert free_bytes(torch.device("mps")) == 1000 * 16384 // 2


def test_sparing_asks_until_it_fits():
    sizes = [8]

    def attempt():
        if sizes[-1] > 1:
            raise MemoryError
        return "done"

    def smaller():
        sizes.append(sizes[-1] // 2)
        return True

    assert sparing(attempt, smaller) == "done" and sizes == [8, 4, 2, 1]
