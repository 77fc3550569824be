"""Fixtures of all tests: a tiny untrained backbone, and the real photographs where they lie beside the
clone."""

import json
import logging
import os
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.support.constants import REAL_BACKBONE, SHARED, TINY
from utils.limits import MAX_PIXELS, allow_pixels

# The same inputs every time, so that a change is judged by itself; FDSL_FUZZ (test_fuzz.py) looks
# for new ones.
hypothesis.settings.register_profile("repeatable", derandomize="FDSL_FUZZ" not in os.environ)
hypothesis.settings.load_profile("repeatable")
torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS") or 2)))
fast_test = ""  # the name of the test that runs, where it is not marked slow


def _refuses_python_and_browsers(event, given):
    """An audit hook: each start of Python costs seconds, so fast tests do without."""
    if fast_test and event == "subprocess.Popen":
        program = os.path.basename(os.fsdecode(given[0] or given[1][0]))
        assert not program.startswith(("python", "chrom")), (
            f"{fast_test} starts {program}: call the command's main, or mark the test slow"
        )


sys.addaudithook(_refuses_python_and_browsers)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    global fast_test
    fast_test = "" if item.get_closest_marker("slow") else item.nodeid
    yield
    fast_test = ""


@pytest.hookimpl(tryfirst=True)
def pytest_report_to_serializable(report):
    """What was logged may hold half of a surrogate pair, which pytest's processes cannot tell each other."""
    if hasattr(report, "sections"):
        report.sections = [
            (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
        ]


@pytest.fixture(autouse=True)
def usual_pixels():
    """No test leaves its --max-pixels to the next one."""
    yield
    allow_pixels(MAX_PIXELS)


@pytest.fixture(scope="module")
def one_thread():
    """Models this small are slower on two threads, and far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real photographs, weights and golden outputs."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with real photographs and weights is not here")
    return SHARED


@pytest.fixture(scope="session")
def tiny_configs(tmp_path_factory) -> str:
    """A folder with the model file of ViT-tiny-test: 3 blocks, width 32, patches of 8 pixels."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "ViT-tiny-test.json").write_text(json.dumps(TINY))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_backbone(tiny_configs):
    """The untrained ViT-tiny-test, feature layers 1 and 3."""
    from tests.support.backbones import backbone_of

    return backbone_of("ViT-tiny-test", "none", [1, 3], model_config=tiny_configs)


@pytest.fixture(scope="session")
def real_backbone(shared):
    """DeiT-Tiny with its ImageNet weights, feature layers 3 6 9 12, float32."""
    from tests.support.backbones import backbone_of

    return backbone_of(
        REAL_BACKBONE["model"],
        REAL_BACKBONE["pretrained"],
        REAL_BACKBONE["layers"],
        model_config=REAL_BACKBONE["model_config"],
    )


@pytest.fixture
def logged(caplog):
    """What was logged, as one text."""
    logger = logging.getLogger("fdsl")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(caplog.handler)
    yield lambda: caplog.text
    logger.removeHandler(caplog.handler)
