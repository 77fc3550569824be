"""Tensors on a disk: numbers stay, nothing is left behind, and a full disk is reported beforehand."""

import os
from collections import namedtuple

import pytest
import torch

from utils.errors import ConfigError
from utils.tensor_on_disk import tensor_on_disk


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
