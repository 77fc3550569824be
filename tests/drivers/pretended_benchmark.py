"""benchmarks/gpu.py on a pretended CUDA device.

python tests/drivers/pretended_benchmark.py [the arguments of benchmarks/gpu.py]
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

import fdsl.training.step as training_step
from tests.drivers.device_paths import gradients_on_the_cpu
from tests.support.constants import ROOT
from tests.support.pretended_cuda import pretended_cuda

if __name__ == "__main__":
    torch.set_num_threads(1)
    training_step.HeadsStep._backward = gradients_on_the_cpu
    with pretended_cuda():
        runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"), run_name="__main__")
