"""The page under load: several visitors at once, each with references and photographs of their own.

    python tests/drivers/app_load.py                  # 8 visitors for two minutes
    python tests/drivers/app_load.py --seconds 5      # the short version

Starts app.py with a tiny untrained backbone (it measures the server, not the model). Every visitor uploads
references, learns, uploads and scores photographs, looks at the pictures, moves the threshold, downloads the
results, and leaves; then another one comes. Any answer but the right one ends with exit code 1, as do uploads
that are left behind.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.drivers.soak import MODEL
from tests.support.served import served

REFERENCES, PHOTOGRAPHS = 2, 4


def picture(seed: int) -> bytes:
    """A PNG of noise, different for each seed."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(
        file, "PNG"
    )
    return file.getvalue()


class Load:
    """What all visitors together asked and what went wrong."""

    def __init__(self, address: str) -> None:
        self.address, self.seconds, self.errors, self.visits = address, [], [], 0
        self._lock = threading.Lock()

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        began = time.monotonic()
        request = urllib.request.Request(f"{self.address}/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            content = answer.read()
        with self._lock:
            self.seconds.append(time.monotonic() - began)
        return content

    def visit(self, seed: int, expected: dict[int, float]) -> None:
        """One visitor from coming to leaving; scores of the same photographs must always be the same."""
        base = "sessions/" + json.loads(self.ask("POST", "sessions"))["name"]
        for number in range(REFERENCES):
            self.ask("POST", f"{base}/references?name={number}.png", picture(number))
        self.ask("POST", f"{base}/learn", b'{"rate": 0.05}')
        for number in range(PHOTOGRAPHS):
            which = 100 + (seed + number) % 20
            row = json.loads(self.ask("POST", f"{base}/photographs?name={which}.png", picture(which)))
            score = json.loads(self.ask("POST", f"{base}/photographs/{row['number']}/score"))["score"]
            if expected.setdefault(which, score) != score:
                raise AssertionError(f"photograph {which} scored {score}, and {expected[which]} before")
            heat = self.ask("GET", f"{base}/uploads/{row['number']}/heat.jpg")
            if Image.open(io.BytesIO(heat)).size != (80, 60):
                raise AssertionError("a heat map of another size")
        self.ask("PUT", f"{base}/threshold", json.dumps({"score": score}).encode())
        names = zipfile.ZipFile(io.BytesIO(self.ask("GET", f"{base}/results.zip"))).namelist()
        if sum(name.startswith("pictures/") for name in names) != PHOTOGRAPHS:
            raise AssertionError(f"results without all pictures: {names}")
        self.ask("DELETE", base)
        with self._lock:
            self.visits += 1


def resident_mib(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(visitors: int, seconds: float) -> dict:
    """Runs the page and its visitors; returns what is printed."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ViT-soak.json").write_text(json.dumps(MODEL))
        flags = f"--model ViT-soak --model-config {folder} --pretrained none --layers 1 3 --image-size 32"
        flags += " --device cpu --precision fp32"
        with served(*flags.split(), TMPDIR=folder) as page:
            before = len(page.log)
            result = visit_for(Load(page.address), visitors, seconds, page.process.pid)
            page.process.send_signal(signal.SIGINT)
            result["exit_code"] = page.process.wait(10)
        result["left_behind"] = len(list(Path(folder).glob("fdsl-page-*")))
        result["log"] = page.log[before:]
    return result


def visit_for(load: Load, visitors: int, seconds: float, process: int) -> dict:
    expected: dict[int, float] = {}
    end, memory = time.monotonic() + seconds, []

    def keep_visiting(seed: int) -> None:
        while time.monotonic() < end:
            try:
                load.visit(seed, expected)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and shown
                reason = (
                    error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
                )
                load.errors.append(f"{type(error).__name__}: {error} {reason}"[:300])
            seed += visitors

    threads = [threading.Thread(target=keep_visiting, args=(seed,)) for seed in range(visitors)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        memory.append(resident_mib(process))
    for thread in threads:
        thread.join()
    if not load.seconds:
        raise SystemExit(f"No request succeeded. {' '.join(load.errors[:3])}")
    took = np.sort(load.seconds)
    warm = memory[len(memory) // 4]
    return {
        "visitors": visitors,
        "seconds": seconds,
        "visits": load.visits,
        "requests": len(took),
        "errors": len(load.errors),
        "first_errors": load.errors[:3],
        "median_ms": 1e3 * float(np.median(took)),
        "p99_ms": 1e3 * float(np.quantile(took, 0.99)),
        "slowest_ms": 1e3 * float(took[-1]),
        "mib_warm": warm,
        "mib_end": memory[-1],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120)
    args = parser.parse_args(argv)
    result = measure(args.visitors, args.seconds)
    print(json.dumps(result, indent=1))
    return int(bool(result["errors"] or result["left_behind"] or not result["visits"]))


if __name__ == "__main__":
    sys.exit(main())
