"""Room for tensors on a disk: numbers stay, nothing is left behind, and a full disk is reported
beforehand."""

import os
from collections import namedtuple

import pytest
import torch

from utils.errors import ConfigError
from utils.room import OnDisk, in_memory


def test_numbers_stay_and_no_file_is_left(tmp_path, logged):
    kept = OnDisk(tmp_path / "not" / "there", "Tokens")((3, 4, 5), torch.float32)
    assert kept.shape == (3, 4, 5) and kept.dtype == torch.bfloat16
    values = torch.randn(3, 4, 5).bfloat16()
    kept.copy_(values)
    assert torch.equal(kept[1].clone(), values[1]) and os.listdir(tmp_path) == []
    assert "Tokens take 0.00 GiB of disk" in logged()
    assert OnDisk(tmp_path, "Tokens")((2,), torch.float16).dtype == torch.float16
    assert in_memory((2, 3), torch.float32).dtype == torch.float32


def test_a_disk_without_room_is_a_sentence(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(2**40, 0, 2**30))
    OnDisk(tmp_path, "Tokens")((2**20,), torch.bfloat16)
    with pytest.raises(ConfigError, match=r"Tokens take 2\.0 GiB of disk .* has 1\.0 GiB left; name an"):
        OnDisk(tmp_path, "Tokens")((2**30,), torch.bfloat16)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ConfigError, match="cannot be stored in .*No space left on device"):
        OnDisk(tmp_path, "Tokens")((2**10,), torch.bfloat16)
    assert os.listdir(tmp_path) == []


def test_where_nothing_may_be_written_it_is_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    room = OnDisk(tmp_path / "closed", "Tokens")
    assert room.folder == tmp_path and room((2,), torch.bfloat16).shape == (2,)
