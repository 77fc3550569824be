"""Kills one of torchrun's two processes of train.py, test.py or predict.py at a random moment, and goes on.

    python tests/drivers/kills_of_ranks.py --kills 10

torchrun gives the command again by itself (--max-restarts), or it is given again in one, two or three
processes. Every other process hangs first (SIGSTOP), and every fourth is not killed then, but goes on. What
is left must equal what an undisturbed run left. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.support.constants import ROOT
from tests.support.small_runs import Place, children, environment, files

HANGS = 5.0  # seconds
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def command(name: str, arguments: list[str], processes: int) -> list[str]:
    """A command in one process, or in several of torchrun's."""
    several = [*TORCHRUN, str(processes)] if processes > 1 else []
    return [sys.executable, *several, str(ROOT / f"{name}.py"), *arguments]


def to_its_end(name: str, arguments: list[str], processes: int) -> float:
    """Runs a command; the seconds that it took."""
    begun = time.monotonic()
    words = command(name, arguments, processes)
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begun


def ranks_of(number: int, name: str) -> list[int]:
    """Those below a process that run the command `name`."""
    found = []
    for child in children(number):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(f"/{name}.py".encode()) for word in words):
                found += [] if b"torch.distributed.run" in words else [child]
            found += ranks_of(child, name)
    return found


def kill_at_random(kills: int, seed: int) -> None:
    """torchrun's processes of each command, one of them killed at a random moment, then the same command
    again, by torchrun (--max-restarts) or by hand in another number of processes."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as work:
        place = Place(Path(work) / "place")
        to_its_end("train", place.train(), 1)

        def arguments(name: str, folder: Path) -> list[str]:
            if name == "train":
                return place.train("--epochs", "6", "--save-every", "1", "--checkpoints", str(folder))
            if name == "test":
                return place.test("--results", str(folder))
            return place.predict("--resume", "--save-maps", "--output", str(folder))

        whole = {}
        for name in ("test", "predict", "train"):
            folder = Path(work) / f"{name}-whole"
            seconds = to_its_end(name, arguments(name, folder), 2)
            whole[name] = (seconds, files(folder))
        hit = dict.fromkeys(whole, 0)
        number = restarted = hung = 0
        while sum(hit.values()) < kills:
            name = list(whole)[number % 3]
            number += 1
            seconds, wanted = whole[name]
            folder = Path(work) / f"{name}-{number}"
            restarts, after = number % 2, moments.uniform(0.3, 1) * seconds
            hangs = number % 4 in (2, 3)
            words = arguments(name, folder)
            was_hit = disturb(name, words, after, moments, restarts, hangs, kills=number % 4 != 3)
            hit[name] += was_hit
            hung += was_hit and hangs
            restarted += was_hit and restarts and number % 4 != 3
            if not restarts:
                to_its_end(name, words, moments.choice((1, 2, 3)))
            assert files(folder) == wanted, f"{name}.py left other files after kill {number}"
            shutil.rmtree(folder)
    print(
        ", ".join(f"{name}.py: {count}" for name, count in hit.items())
        + f"; {hung} of them hung first, {restarted} were restarted by torchrun; all ended in the same files"
    )


def disturb(
    name: str,
    arguments: list[str],
    after: float,
    moments: random.Random,
    restarts: int,
    hangs: bool,
    kills: bool,
) -> bool:
    """Lets one of two processes hang, kills it, or both, so many seconds after their start; False where they
    were done by then."""
    words = command(name, arguments, 2)
    words[words.index("2") + 1 : words.index("2") + 1] = ["--max-restarts", str(restarts)]
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(after)
    ranks = ranks_of(process.pid, name)
    if ranks:
        one = moments.choice(ranks)
        if hangs:
            os.kill(one, signal.SIGSTOP)
            time.sleep(HANGS)
            assert process.poll() is None, f"{name}.py did not wait for a process that hangs"
        os.kill(one, signal.SIGKILL if kills else signal.SIGCONT)
    code = process.wait(timeout=300)
    assert code == 0 or not restarts, f"torchrun did not end {name}.py well"
    return bool(ranks) and (bool(restarts) or code != 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    kill_at_random(args.kills, args.seed)


if __name__ == "__main__":
    main()
