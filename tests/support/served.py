"""The page of app.py, served by a process of its own."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.support.constants import ROOT


@dataclass
class Served:
    """Where app.py listens, its process, and the lines of its standard error so far."""

    address: str
    process: subprocess.Popen
    log: list[str]


@contextlib.contextmanager
def served(*flags: str, root: Path = ROOT, python: str = sys.executable, **environment: str):
    """Starts `root`/app.py at a free port and kills it at the end, should it still run."""
    process = subprocess.Popen(
        [python, "app.py", "--port", "0", *map(str, flags)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"open (http://127\.0\.0\.1:\d+)", line):
                threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
                yield Served(found[1], process, lines)
                return
        raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.wait()
