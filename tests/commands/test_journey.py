"""What a newcomer does, from the clone to the page: tests/drivers/journey.py without --install."""

import shutil
import subprocess
import sys

import pytest

from tests.support.constants import ROOT
from tests.support.small_runs import environment


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="this is no git clone")
def test_from_the_clone_to_the_page():
    command = [sys.executable, "tests/drivers/journey.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
