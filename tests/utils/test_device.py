"""The device and the precision of a run."""

import pytest
import torch

from utils import device as device_module
from utils.device import choose_device, choose_precision
from utils.errors import ConfigError


@pytest.mark.parametrize(
    "device, unit, chosen",
    [
        ("cuda", None, torch.float16),
        ("cpu", "AMX", torch.bfloat16),
        ("cpu", None, torch.float32),
        ("mps", None, torch.float32),
    ],
)
def test_auto_precision_is_the_finest_that_is_fast(device, unit, chosen, monkeypatch):
    monkeypatch.setattr(device_module, "bf16_in_hardware", lambda: unit)
    assert choose_precision("auto", torch.device(device)) == chosen


def test_what_an_apple_gpu_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(device_module, "MPS_NEEDS", "99.1")
    with pytest.raises(ConfigError, match="--device mps needs PyTorch 99.1, .*--device cpu"):
        choose_device("mps")
    monkeypatch.setattr(device_module, "MPS_NEEDS", "2.6")
    for name, value in (("MASTER_ADDR", "localhost"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for name in ("mps", "auto"):
        with pytest.raises(ConfigError, match="2 processes here would share one Apple GPU.*--device cpu"):
            choose_device(name)
    for precision in ("fp16", "bf16"):
        with pytest.raises(ConfigError, match=f"--precision {precision} was never tried on an Apple GPU"):
            choose_precision(precision, torch.device("mps"))


def test_a_gpu_that_does_not_answer_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="--device cuda:0 is there but does not work .*--device cpu"):
        choose_device("0")


def test_a_gpu_s_float32_is_whole_and_its_long_sums_are_rounded_once(monkeypatch):
    ones, matmul = torch.ones, torch.backends.cuda.matmul
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch, "ones", lambda *size, device: ones(*size))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    try:
        choose_device("cuda")
        assert not torch.backends.cudnn.allow_tf32 and not matmul.allow_tf32
        assert not matmul.allow_fp16_reduced_precision_reduction
        assert not matmul.allow_bf16_reduced_precision_reduction
    finally:  # PyTorch's usual, which monkeypatch cannot put back
        matmul.allow_fp16_reduced_precision_reduction = True
        matmul.allow_bf16_reduced_precision_reduction = True
