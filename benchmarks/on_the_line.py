"""An exported detector beside PyTorch: seconds of a photograph, start to first result, memory, and what both
installations take on the disk. Photographs and weights are random: only time and size are measured.

    python benchmarks/on_the_line.py                                          # ViT-L-14-336 at 518 px
    python benchmarks/on_the_line.py --model ViT-S-16 --layers 3 6 9 12 --image-size 448
    python benchmarks/on_the_line.py --provider openvino      # needs deploy/requirements-openvino.txt
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "lib")]
from fdsl_line.graph import Graph  # noqa: E402

from fdsl.api import AnomalyDetector  # noqa: E402
from fdsl.exporting import export_detector  # noqa: E402
from utils.config import BackboneConfig, WindowConfig  # noqa: E402

# A small process between, for a new one's peak begins at that of the process that started it.
CLOCK = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
print(json.dumps([code, time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""
SIZE = 900, 700  # of the photographs, pixels
NAMES = {"cpu": "onnxruntime", "openvino": "OpenVINO"}
REQUIRED = {"cpu": "requirements.txt", "openvino": "requirements-openvino.txt"}


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(args, Path(folder))
    print(f"{args.model}, {args.image_size} px, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"onnxruntime {onnxruntime.__version__}\n")
    columns = [f"{NAMES[args.provider]} {precision}" for precision in precisions(args)]
    columns = ["what", *columns, "PyTorch fp32", "PyTorch bf16"]
    print(tabulate(rows, columns, "pipe", floatfmt=".2f"))
    for file in (f"deploy/{REQUIRED[args.provider]}", "requirements.txt"):
        print(f"\n{file}: {installed(required(ROOT / file)) / 1e6:,.0f} MB with all that it needs")


def parse() -> argparse.Namespace:
    parser, default = argparse.ArgumentParser(description=__doc__), BackboneConfig()
    parser.add_argument("--model", default=default.model)
    parser.add_argument("--model-config")
    parser.add_argument("--layers", type=int, nargs="+", default=list(default.layers))
    parser.add_argument("--image-size", type=int, default=default.image_size)
    parser.add_argument("--method", default="nearest")
    parser.add_argument("--windows", action="store_true", help="with all local windows (LFE)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--provider", choices=NAMES, default="cpu", help="as deploy/inspect.py")
    return parser.parse_args()


def precisions(args: argparse.Namespace) -> tuple[str, ...]:
    """In which the exported detector is measured."""
    return ("fp32", "bf16") if args.provider == "openvino" else ("fp32",)


def measured(args: argparse.Namespace, folder: Path) -> list[list]:
    """The rows of the table; the shortest of `repeats` runs, taken in turn."""
    generator = np.random.default_rng(0)
    for name in ("good", "part"):
        pixels = generator.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    saved, file = {}, folder / "part.onnx"
    works: list[Callable[[], object]] = []
    for precision in ("fp32", "bf16"):
        detector = made(args, precision)
        detector.remember(folder / "good.png", false_alarm_rate=None)
        detector.set_threshold(0.5)
        saved[precision] = folder / f"{precision}.safetensors"
        detector.save(saved[precision])
        batch = detector.to_batch([Image.open(folder / "part.png")])
        works.append(lambda detector=detector, batch=batch: detector.scorer(batch, ["part"]))
        if precision == "fp32":
            export_detector(detector, file, standard=args.provider == "openvino")
    for precision in precisions(args):
        session = Graph(file, 0, args.provider, precision).session
        works.append(lambda session=session, batch=batch: session.run(None, {"pixels": batch.numpy()}))
    wide, narrow, *given = shortest(works, args.repeats)
    rows = [["a photograph, pixels to map, s", *given, wide, narrow]]
    del works, session, detector
    flags = ["--input", str(folder / "part.png"), "--format", "json", "--device", "cpu"]
    inspect = ["deploy/inspect.py", str(file), str(folder / "part.png"), "--format", "json"]
    commands = [
        *([*inspect, "--provider", args.provider, "--precision", one] for one in precisions(args)),
        *(["predict.py", "--detector", str(saved[precision]), *flags] for precision in ("fp32", "bf16")),
    ]
    started = starts(commands, args.repeats)
    rows.append(["start to first result, one photograph, s", *(seconds for seconds, _ in started)])
    rows.append(["peak memory of that process, MB", *(memory for _, memory in started)])
    rows.append(
        ["detector's file, MB", *(size_of(file) for _ in precisions(args)), *map(size_of, saved.values())]
    )
    return rows


def made(args: argparse.Namespace, precision: str) -> AnomalyDetector:
    return AnomalyDetector.from_backbone(
        method=args.method,
        model=args.model,
        pretrained="none",
        model_config=args.model_config,
        layers=args.layers,
        image_size=args.image_size,
        windows=WindowConfig("mul" if args.windows else "nan"),
        device="cpu",
        precision=precision,
    )


def shortest(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each work: the shortest of `repeats` runs after one that is not counted, in turn."""
    best = [float("inf")] * len(works)
    for number in range(repeats + 1):
        for index, work in enumerate(works):
            begun = time.perf_counter()
            work()
            if number:
                best[index] = min(best[index], time.perf_counter() - begun)
    return best


def starts(commands: list[list[str]], repeats: int) -> list[tuple[float, float]]:
    """Each command from its start to its end: seconds, the shortest of `repeats` in turn, and its peak memory
    in MB."""
    found = [(float("inf"), 0.0)] * len(commands)
    for _ in range(repeats):
        for index, command in enumerate(commands):
            ran = [sys.executable, "-c", CLOCK, sys.executable, *command]
            done = subprocess.run(ran, cwd=ROOT, capture_output=True, text=True, check=True)
            code, seconds, peak = json.loads(done.stdout)
            if code:
                raise SystemExit(f"error: {' '.join(command)} ended with {code}")
            found[index] = min(found[index][0], seconds), peak * 1024 / 1e6
    return found


def size_of(file: Path) -> float:
    """MB of a file and of the tensors beside it."""
    return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*")) / 1e6


def required(file: Path) -> set[str]:
    """The packages that a requirements file names."""
    lines = file.read_text().splitlines()
    return {re.split(r"[=<>~ ]", line)[0] for line in lines if line and not line.startswith(("#", "-"))}


def installed(names: set[str]) -> int:
    """Bytes that packages take here, with all that they need."""
    waiting, known, total = list(names), set(), 0
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in known:
            continue
        known.add(name)
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system
        files = [Path(str(file.locate())) for file in package.files or ()]
        total += sum(file.stat().st_size for file in files if file.is_file())
        for line in package.requires or ():
            if "extra ==" not in line:
                waiting.append(re.split(r"[\s;=<>~!\[(]", line)[0])
    return total


if __name__ == "__main__":
    main()
