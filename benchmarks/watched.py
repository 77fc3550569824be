"""A command in one process or several of torchrun's, watched while it runs. Linux only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.small_runs import environment

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
POLL = 0.1  # seconds


def command(name: str, arguments: list[str], processes: int) -> list[str]:
    """A command in one process, or in several."""
    several = [*TORCHRUN, str(processes)] if processes > 1 else []
    return [sys.executable, *several, str(ROOT / f"{name}.py"), *arguments]


def descendants(number: int) -> Iterator[int]:
    """The ids of a process's children and of theirs."""
    try:
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def ranks_of(number: int, name: str) -> list[int]:
    """Those below a process that run the command `name`."""
    found = []
    for child in descendants(number):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            any(word.endswith(f"/{name}.py".encode()) for word in words)
            and b"torch.distributed.run" not in words
        ):
            found.append(child)
    return found


def peak_bytes(number: int) -> int:
    """The largest memory that a process has had; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def cpu_seconds(number: int) -> float:
    """The processor's seconds that a process has had; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Of a command: seconds from its start to its end; the processor's seconds and the GiB of the process
    that had most of them."""

    seconds: float
    busiest: float
    memory: float


def timed(name: str, arguments: list[str], processes: int) -> Cost:
    """A command from its start to its end."""
    begun = time.monotonic()
    peaks: dict[int, int] = {}
    busy: dict[int, float] = {}
    with tempfile.TemporaryFile("w+") as said:
        words = command(name, arguments, processes)
        process = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=said, stderr=said)
        while process.poll() is None:
            own = ranks_of(process.pid, name) if processes > 1 else [process.pid]
            for one in own:
                peaks[one] = max(peaks.get(one, 0), peak_bytes(one))
                busy[one] = max(busy.get(one, 0.0), cpu_seconds(one))
            time.sleep(POLL)
        seconds = time.monotonic() - begun
        said.seek(0)
        assert process.returncode == 0, said.read()
    return Cost(seconds, max(busy.values()), max(peaks.values()) / 2**30)
