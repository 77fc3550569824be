"""What a photograph may cost on a GPU, counted on fake tensors at true size (benchmarks/gpu_on_paper.py): a
loop of kernels, a second copy of the pixels or another matrix of similarities is seen here."""

import json
import subprocess
import sys

import pytest
import torch

from tests.support.constants import ROOT
from tests.support.pretended_cuda import TORCH
from tests.support.small_runs import environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.__version__.startswith(f"{TORCH}."),
        reason=f"fake tensors of a GPU rest on private names of PyTorch {TORCH}",
    ),
]
PIXELS = 3 * 518**2 / 1e6  # MB of a photograph
BUDGETS = {  # launches, GB that kernels read and write, MB to the device, peak GiB
    "fdsl whole, K=1": (115, 4.3, PIXELS, 0.9),
    "plus tiles, K=1": (270, 23, 5 * PIXELS, 1.9),
    "fdsl 13/2, K=1": (970, 115, PIXELS, 2.2),
    "fdsl 13/2, K=1, own picks": (1150, 135, PIXELS, 2.2),
    "plus 13/2, K=2": (1550, 150, PIXELS, 2.6),
}


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    file = tmp_path_factory.mktemp("costs") / "rows.json"
    words = [
        sys.executable,
        str(ROOT / "benchmarks/gpu_on_paper.py"),
        "--runs",
        *BUDGETS,
        "--json",
        str(file),
    ]
    ran = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=1200)
    assert ran.returncode == 0, ran.stderr
    assert all(name in ran.stdout for name in BUDGETS)
    return json.loads(file.read_text())


@pytest.mark.parametrize("name", BUDGETS)
def test_a_photograph_costs_no_more(costs, name):
    launches, gigabytes, pixels, peak = BUDGETS[name]
    (cost,) = (row for row in costs["rows"] if row["run"] == name)
    assert 0.7 * launches < cost["launches"] <= launches
    assert 0.7 * gigabytes < cost["gigabytes"] <= gigabytes
    assert cost["megabytes_to_device"] == pytest.approx(pixels, rel=0.01)
    assert cost["megabytes_to_host"] == 0
    assert 0.5 * peak < cost["peak_gib"] <= peak and cost["fitting"]["peak_gib"] <= peak
    assert cost["seconds"]["H200"] < cost["seconds"]["A100-80"] < cost["seconds"]["RTX 4090"]


def test_the_gradients_of_a_training_s_step_take_no_more(costs):
    assert 0.3 < costs["gradients_gib"] < 0.5
