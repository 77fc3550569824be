"""What counts as out of memory, and work that is halved until it fits."""

import os
from collections import namedtuple

import pytest
import torch

from utils.errors import ConfigError, is_out_of_memory
from utils.memory import Halving, free_bytes, sparing, tensor_on_disk


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


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_stay_and_no_file_is_left(folder, logged, dtype):
    stored, values = tensor_on_disk((3, 4, 5), dtype, "Tokens"), torch.randn(3, 4, 5).to(dtype)
    stored.copy_(values)
    assert torch.equal(stored.clone(), values) and os.listdir(folder) == []
    assert f"Tokens take 0.00 GiB of disk in {folder}" in logged()


def test_a_disk_without_room_is_a_sentence(folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(2**40, 0, 2**30))
    tensor_on_disk((2**20,), torch.bfloat16, "Tokens")
    with pytest.raises(ConfigError, match=r"Tokens take 2\.0 GiB of disk, .* has 1\.0 GiB left; set TMPDIR"):
        tensor_on_disk((2**30,), torch.bfloat16, "Tokens")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ConfigError, match="cannot be stored in .*No space left on device"):
        tensor_on_disk((2**10,), torch.bfloat16, "Tokens")
    assert os.listdir(folder) == []
