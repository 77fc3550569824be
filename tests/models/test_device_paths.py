"""The product on a pretended CUDA device, in processes of their own: no tensor on the wrong device, the CPU's
results, nothing that waits or crosses inside the loops (tests/drivers/device_paths.py)."""

import json
import subprocess
import sys

import pytest
import torch

from tests.drivers.device_paths import FAULTS, PATHS
from tests.support.constants import ROOT
from tests.support.pretended_cuda import TORCH
from tests.support.small_runs import environment

NARROW = (
    "nearest windows",
    "like no normal",
    "own picks",
    "plus one",
    "subspace tiles",
    "batch tiles",
    "fdsl",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.__version__.startswith(f"{TORCH}."),
        reason=f"the pretended device rests on private names of PyTorch {TORCH}",
    ),
]


def start(*arguments):
    """A process of the driver."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/drivers/device_paths.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def lines_of(process):
    """What it found of each path."""
    reported, problem = process.communicate(timeout=1200)
    lines = [json.loads(line) for line in reported.splitlines()]
    assert lines, problem
    return process.returncode, lines


@pytest.fixture(scope="module")
def walked():
    """Two processes at once: all paths, and planted faults."""
    processes = start(), start("--faults")
    yield [lines_of(process) for process in processes]


def test_every_path_gives_the_cpu_s_results_and_waits_nowhere_else(walked):
    code, lines = walked[0]
    assert {line["path"]: line["wrong"] for line in lines} == dict.fromkeys(PATHS, [])
    assert code == 0


def test_every_planted_fault_is_refused(walked):
    code, lines = walked[1]
    assert len(lines) == len(FAULTS) >= 10
    assert [line["fault"] for line in lines if not line["wrong"]] == []
    assert code == 0


def test_narrow_paths_mix_no_types():
    code, lines = lines_of(start("--precision", "fp16", *NARROW))
    assert len(lines) >= len(NARROW)
    assert {line["path"]: line["wrong"] for line in lines if line["wrong"]} == {}
    assert code == 0
