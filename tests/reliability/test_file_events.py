"""Kills at file-system events, the short version of `python tests/drivers/kills.py`."""

import os
import subprocess
import sys

import pytest

from tests.drivers.kills import NAMES
from tests.support.constants import ROOT
from tests.support.small_runs import environment

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_runs_killed_at_events_go_on_to_the_same_files():
    """FDSL_EVENT_KILLS=40 makes as many of each command."""
    kills = os.environ.get("FDSL_EVENT_KILLS", "2")
    command = [sys.executable, "tests/drivers/kills.py", "--kills", kills]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f": {kills} kills at") == len(NAMES), done.stdout
