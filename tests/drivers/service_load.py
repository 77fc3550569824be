"""Load on deploy/serve.py: clients ask at once for a while; each gets its own photograph's row, all rows are
kept, and memory stays flat.

    python tests/drivers/service_load.py --detector part.onnx --photographs DIR --seconds 60 --clients 8

Exit code 0 where all holds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
GROWTH = 1.1  # times the memory of the first quarter, which the last may have; medians, for it peaks
MAP_EVERY = 10  # requests, one of which asks for the heat map
NO_PHOTOGRAPH_EVERY = 25  # and one sends what is no photograph


@dataclass
class Seen:
    """What the clients were answered: statuses, rows, seconds of each, and rows that are another's."""

    statuses: Counter = field(default_factory=Counter)
    rows: int = 0
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def ask(port: int, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def client(number: int, port: int, photographs: dict[str, bytes], end: float, seen: Seen) -> None:
    """Asks until `end` (monotonic seconds)."""
    names, turn = list(photographs), number
    while time.monotonic() < end:
        name, turn = names[turn % len(names)], turn + 1
        hostile, wants_map = turn % NO_PHOTOGRAPH_EVERY == 0, turn % MAP_EVERY == 0
        body = b"no photograph" if hostile else photographs[name]
        path = f"/inspect?name={quote(name)}" + ("&map=png" if wants_map else "")
        begun = time.monotonic()
        status, answer = ask(port, path, body)
        with seen.lock:
            seen.statuses[status] += 1
            if status == 200:
                seen.rows += 1
                seen.seconds.append(time.monotonic() - begun)
                if not wants_map and json.loads(answer)["image"] != name:
                    seen.wrong.append(name)
        if status == 503:
            time.sleep(0.2)


def memory_of(number: int) -> int:
    """Bytes that a process holds."""
    pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
    return pages * 4096


def load(args: argparse.Namespace, out: Path) -> bool:
    """Runs the service and its clients, prints what was seen; whether all holds."""
    command = [sys.executable, str(ROOT / "deploy" / "serve.py"), str(args.detector), "--port", "0"]
    flags = ["--output", str(out), "--queue", str(args.queue), "--threads", str(args.threads)]
    service = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    assert service.stderr is not None
    found = re.search(r":(\d+)/inspect", service.stderr.readline())
    assert found is not None
    port, seen = int(found[1]), Seen()
    files = [file for file in sorted(args.photographs.iterdir()) if file.is_file()][: args.files]
    photographs = {file.name: file.read_bytes() for file in files}
    begun = time.monotonic()
    end = begun + args.seconds
    asking = [
        threading.Thread(target=client, args=(number, port, photographs, end, seen))
        for number in range(args.clients)
    ]
    for one in asking:
        one.start()
    memory = []
    while any(one.is_alive() for one in asking):
        time.sleep(args.seconds / 40)
        memory.append((time.monotonic() - begun, memory_of(service.pid)))
    health = json.loads(ask(port, "/health")[1])
    service.send_signal(signal.SIGTERM)
    reported = service.communicate(timeout=60)[1]
    kept = (out / "scores.jsonl").read_text().count("\n")
    settled = median(held for moment, held in memory if moment <= args.seconds / 4)
    last = median(held for moment, held in memory if moment > args.seconds * 3 / 4)
    peak = max(held for _, held in memory)
    seconds = sorted(seen.seconds)
    print(f"{args.clients} clients, {args.seconds:g} s: answers {dict(seen.statuses)}")
    print(
        f"rows answered {seen.rows}, kept {kept}, counted {health['inspected']}, of others {len(seen.wrong)}"
    )
    print(f"median {seconds[len(seconds) // 2]:.3f} s, slowest {seconds[-1]:.3f} s")
    print(f"memory {settled / 2**20:.0f} MiB in the first quarter, {last / 2**20:.0f} MiB in the last one,")
    print(f"  {peak / 2**20:.0f} MiB at most")
    whole = kept == seen.rows == health["inspected"] and not seen.wrong and "fault" not in reported
    only_known = set(seen.statuses) <= {200, 422, 503}
    return whole and only_known and last <= GROWTH * settled and service.returncode == 143


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detector", type=Path, required=True, help="what export.py wrote")
    parser.add_argument("--photographs", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--files", type=int, default=20, help="photographs that are sent, the first ones")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if load(args, Path(folder, "out")) else 1


if __name__ == "__main__":
    sys.exit(main())
