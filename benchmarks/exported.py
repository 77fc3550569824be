"""An exported detector compared with PyTorch: speed, size, how far its results differ, and what narrower
numbers cost.

    python benchmarks/exported.py speed                              # ViT-L-14-336-quickgelu at 518 px
    python benchmarks/exported.py speed --model ViT-S-16 --layers 3 6 9 12 --image-size 448
    python benchmarks/exported.py agreement --data DIR --checkpoint FILE --model ... --pretrained FILE ...
    python benchmarks/exported.py precision --data DIR --model ... --pretrained FILE --layers ...

speed: seconds of a photograph, start to first result, memory, and what both installations take on the disk;
photographs and weights are random. agreement: the largest difference of maps and scores from PyTorch's on
real photographs, and decisions that differ at the median score; without a checkpoint the methods with trained
heads are left out. precision: float16 weights compared with float32, of method nearest with one reference;
maps and masks on the patch grid.
DATA has train/good, test and ground_truth; --photographs of test are taken evenly. --provider openvino (needs
deploy/requirements-openvino.txt): OpenVINO's float32 and bfloat16.
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
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.shared import ROOT, described, encoder_flags, shortest  # noqa: E402
from data.images import open_image, photograph_to_array  # noqa: E402
from deploy.graph import Graph  # noqa: E402
from fdsl.api import AnomalyDetector  # noqa: E402
from fdsl.export.export_detector import export_detector  # noqa: E402
from fdsl.flags.groups import add_options  # noqa: E402
from models.methods.registry import METHODS  # noqa: E402
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
AGREEMENT = ("method", "windows", "references", "photographs", "map", "score", "other decisions")
PRECISION = ("file", "MB", "auroc_sp", "ap_sp", "patches: auroc", "ap", "score moves", "map moves", "seconds")


def main() -> None:
    args = parse()
    args.work(args)


def parse() -> argparse.Namespace:
    parser = described(__doc__)
    works = parser.add_subparsers(required=True)

    def command(name: str, work: Callable) -> argparse.ArgumentParser:
        found = works.add_parser(name)
        found.set_defaults(work=work)
        add_options(found, BackboneConfig)
        return found

    timed = command("speed", speed)
    timed.set_defaults(model=BackboneConfig().model, pretrained="none")
    timed.add_argument("--method", default="nearest")
    timed.add_argument("--windows", action="store_true", help="with all local windows (LFE)")
    timed.add_argument("--repeats", type=int, default=5)
    compared = command("agreement", agreement)
    compared.add_argument("--checkpoint", type=Path)
    compared.add_argument("--methods", nargs="+", default=["nearest", "subspace", "plus", "fdsl", "both"])
    compared.add_argument("--references", type=int, nargs="+", default=[1, 2, 4])
    compared.add_argument("--windows", action="store_true", help="also with local windows")
    compared.add_argument("--win-stride", type=int, default=2)
    narrowed = command("precision", precision)
    for one, photographs in ((compared, 12), (narrowed, 10**6)):
        one.add_argument("--data", type=Path, required=True)
        one.add_argument("--photographs", type=int, default=photographs)
    for one in (timed, narrowed):
        one.add_argument("--provider", choices=NAMES, default="cpu", help="as deploy/inspect.py")
    return parser.parse_args()


def made(args: argparse.Namespace, method: str = "nearest", **more: Any) -> AnomalyDetector:
    """A detector of the flags' backbone that has seen no reference yet."""
    flags = {"method": method, "device": "cpu", "precision": "fp32", **encoder_flags(args), **more}
    if METHODS[method].needs_heads and "checkpoint" in args:
        return AnomalyDetector.from_checkpoint(args.checkpoint, **flags)
    return AnomalyDetector.from_backbone(**flags)


def fit(detector: AnomalyDetector, data: Path, references: int) -> AnomalyDetector:
    good = sorted((data / "train" / "good").iterdir())
    detector.fit(good[:references], false_alarm_rate=None)
    return detector


def chosen(data: Path, count: int) -> list[Path]:
    """So many photographs of data/test, evenly taken."""
    found = sorted(path for path in (data / "test").rglob("*") if path.is_file())
    return [found[place] for place in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]


def speed(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows, side = timed_rows(args, Path(folder))
    print(f"{args.model}, {side} px, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"onnxruntime {onnxruntime.__version__}\n")
    columns = [f"{NAMES[args.provider]} {precision}" for precision in precisions(args)]
    columns = ["what", *columns, "PyTorch fp32", "PyTorch bf16"]
    print(tabulate(rows, columns, "pipe", floatfmt=".2f"))
    for file in (f"deploy/{REQUIRED[args.provider]}", "requirements.txt"):
        print(f"\n{file}: {installed(required(ROOT / file)) / 1e6:,.0f} MB with all that it needs")


def precisions(args: argparse.Namespace) -> tuple[str, ...]:
    """In which the exported detector is measured."""
    return ("fp32", "bf16") if args.provider == "openvino" else ("fp32",)


def timed_rows(args: argparse.Namespace, folder: Path) -> tuple[list[list], int]:
    """The rows of the table, the shortest of `repeats` runs, taken in turn; and the image's side."""
    generator = np.random.default_rng(0)
    for name in ("good", "part"):
        pixels = generator.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    saved, file = {}, folder / "part.onnx"
    works: list[Callable[[], object]] = []
    for precision in ("fp32", "bf16"):
        windows = WindowConfig("mul" if args.windows else "nan")
        detector = made(args, args.method, windows=windows, precision=precision)
        detector.fit(folder / "good.png", false_alarm_rate=None)
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
    wide, narrow, *given = shortest(works, args.repeats, torch.device("cpu"))
    rows = [["a photograph, pixels to map, s", *given, wide, narrow]]
    side = detector.config.detector.backbone.image_size
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
    files = [*(file for _ in precisions(args)), *saved.values()]
    rows.append(["detector's file, MB", *map(size_of, files)])
    return rows, side


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
    """MB of a file and of its tensors' file."""
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


def agreement(args: argparse.Namespace) -> None:
    rows = []
    for method in args.methods:
        if METHODS[method].needs_heads and not args.checkpoint:
            continue
        for windows in (False, True) if args.windows else (False,):
            for references in args.references:
                looks = WindowConfig("mul" if windows else "nan", win_stride=args.win_stride)
                detector = fit(made(args, method, windows=looks), args.data, references)
                found = compared(detector, chosen(args.data, args.photographs))
                rows.append([method, "LFE" if windows else "", references, *found])
    print(tabulate(rows, AGREEMENT, "pipe", floatfmt=".1e"))


def compared(detector: AnomalyDetector, photographs: list[Path]) -> list:
    """Photographs, the largest difference of any map and of any score, and how many decisions differ."""
    wanted = [detector.predict(photo) for photo in photographs]
    detector.set_threshold(float(np.median([found.score for found in wanted])))
    with tempfile.TemporaryDirectory() as folder:
        export_detector(detector, Path(folder) / "part.onnx")
        graph = Graph(Path(folder) / "part.onnx")
        given = [graph.look_at(Image.open(photo).convert("RGB"), photo.name) for photo in photographs]
    maps = [float(np.abs(one.patch_map - two.patch_map).max()) for one, two in zip(given, wanted)]
    scores = [abs(one.score - two.score) for one, two in zip(given, wanted)]
    limit = detector.threshold.score if detector.threshold else 0.0
    others = sum(one.is_anomalous != (two.score >= limit) for one, two in zip(given, wanted))
    return [len(photographs), max(maps), max(scores), others]


def precision(args: argparse.Namespace) -> None:
    detector = fit(made(args), args.data, 1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        graphs = {"float32": exported(detector, folder / "float32.onnx")}
        if args.provider == "openvino":
            file = folder / "standard.onnx"
            export_detector(detector, file, standard=True)
            graphs |= {f"OpenVINO {one}": Graph(file, 0, "openvino", one) for one in ("fp32", "bf16")}
        else:
            graphs["float16"] = exported(detector, folder / "float16.onnx", halved=True)
        rows = judged(graphs, chosen(args.data, args.photographs), args.data)
    print(tabulate(rows, PRECISION, "pipe", floatfmt=".4f"))


def exported(detector: AnomalyDetector, file: Path, **options: bool) -> Graph:
    export_detector(detector, file, **options)
    return Graph(file)


def judged(graphs: dict[str, Graph], photographs: list[Path], data: Path) -> list[list]:
    """A row for each graph: metrics, the largest change from float32, and the median seconds."""
    maps, scores, seconds = ({name: [] for name in graphs} for _ in range(3))
    for photo in photographs:
        image = open_image(photo)
        for name, graph in graphs.items():
            pixels, begun = photograph_to_array(image, graph.side)[None], time.perf_counter()
            patch_map, score, *_ = graph.session.run(None, {"pixels": pixels})
            seconds[name].append(time.perf_counter() - begun)
            maps[name].append(patch_map[0])
            scores[name].append(float(score[0]))
    labels = [photo.parent.name != "good" for photo in photographs]
    truth = np.array([mask_of(photo, data, len(patch_map[0])) for photo in photographs]).ravel()
    rows = []
    for name, graph in graphs.items():
        flat, wide = np.array(maps[name]), np.array(maps["float32"])
        metrics = [
            measure(known, found)
            for known, found in ((labels, scores[name]), (truth, flat.ravel()))
            for measure in (roc_auc_score, average_precision_score)
        ]
        moved = np.abs(np.array(scores[name]) - scores["float32"]).max(), np.abs(flat - wide).max()
        size = graph.file.stat().st_size / 1e6
        rows.append([name, size, *(100 * value for value in metrics), *moved, np.median(seconds[name])])
    return rows


def mask_of(photo: Path, data: Path, grid: int) -> np.ndarray:
    """Which patches (G,G) are more than half defect."""
    file = data / "ground_truth" / photo.parent.name / f"{photo.stem}_mask.png"
    if not file.is_file():
        return np.zeros((grid, grid), bool)
    with Image.open(file) as mask:
        return np.asarray(mask.convert("L").resize((grid, grid), Image.Resampling.BOX)) > 127


if __name__ == "__main__":
    main()
