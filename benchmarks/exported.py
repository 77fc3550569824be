"""An exported detector compared with PyTorch: speed, size and how far its results differ.

    python benchmarks/exported.py speed                              # ViT-L-14-336-quickgelu at 518 px
    python benchmarks/exported.py speed --model ViT-S-16 --layers 3 6 9 12 --image-size 448
    python benchmarks/exported.py agreement --data DIR --checkpoint FILE --model ... --pretrained FILE ...

speed: seconds of a photograph, start to first result, and memory; photographs and weights are random.
agreement: the largest difference of maps and scores from PyTorch's in float32 on real photographs, decisions
that differ at the median score, and the exported detector's image AUROC with its change from PyTorch's, in
points; without a checkpoint the methods with trained heads are left out. DATA has train/good and test, of
which --photographs are taken evenly. --halved: weights in float16. --provider openvino (needs
deploy/requirements-openvino.txt): OpenVINO's float32 and bfloat16.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.shared import cost_of, described, encoder_flags, shortest  # noqa: E402
from data.images import open_image  # noqa: E402
from deploy.graph import Graph  # noqa: E402
from fdsl.api import AnomalyDetector  # noqa: E402
from fdsl.export.export_detector import export_detector  # noqa: E402
from fdsl.flags.groups import add_options  # noqa: E402
from models.methods.registry import METHODS  # noqa: E402
from utils.config import BackboneConfig  # noqa: E402

SIZE = 900, 700  # of the photographs, pixels
PRECISIONS = {"cpu": ("fp32",), "openvino": ("fp32", "bf16")}  # in which the exported detector is measured
NAMES = {"cpu": "onnxruntime", "openvino": "OpenVINO"}
AGREEMENT = "method, windows, references, computed by, map, score, other decisions, AUROC, change".split(", ")


def main() -> None:
    args = parse()
    args.work(args)


def parse() -> argparse.Namespace:
    parser = described(__doc__)
    works = parser.add_subparsers(required=True)

    def command(name: str, work: Callable) -> argparse.ArgumentParser:
        found = works.add_parser(name)
        found.set_defaults(work=work)
        found.add_argument("--provider", choices=NAMES, default="cpu", help="as deploy/inspect.py")
        add_options(found, BackboneConfig)
        return found

    timed = command("speed", speed)
    timed.set_defaults(model=BackboneConfig().model, pretrained="none")
    timed.add_argument("--method", default="nearest")
    timed.add_argument("--windows", action="store_true", help="with all local windows (LFE)")
    timed.add_argument("--repeats", type=int, default=5)
    compared = command("agreement", agreement)
    compared.add_argument("--data", type=Path, required=True)
    compared.add_argument("--checkpoint", type=Path)
    compared.add_argument("--methods", nargs="+", default=["nearest", "subspace", "plus", "fdsl", "both"])
    compared.add_argument("--references", type=int, nargs="+", default=[1, 2, 4])
    compared.add_argument("--windows", action="store_true", help="also with local windows")
    compared.add_argument("--win-stride", type=int, default=2)
    compared.add_argument("--photographs", type=int, default=12)
    compared.add_argument("--halved", action="store_true", help="weights in float16")
    return parser.parse_args()


def made(args: argparse.Namespace, method: str, **more: Any) -> AnomalyDetector:
    """A detector of the flags' backbone that has seen no reference yet."""
    flags = {"method": method, "device": "cpu", "precision": "fp32", **encoder_flags(args), **more}
    if METHODS[method].needs_heads and "checkpoint" in args:
        return AnomalyDetector.from_checkpoint(args.checkpoint, **flags)
    return AnomalyDetector.from_backbone(**flags)


def speed(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows, side = timed_rows(args, Path(folder))
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    print(f"{args.model}, {side} px, {torch.get_num_threads()} threads, {versions}\n")
    columns = [f"{NAMES[args.provider]} {precision}" for precision in PRECISIONS[args.provider]]
    print(tabulate(rows, ["what", *columns, "PyTorch fp32", "PyTorch bf16"], "pipe", floatfmt=".2f"))


def timed_rows(args: argparse.Namespace, folder: Path) -> tuple[list[list], int]:
    """The rows of the table, the shortest of `repeats` runs, taken in turn; and the image's side."""
    generator = np.random.default_rng(0)
    for name in ("good", "part"):
        pixels = generator.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    saved, file = {}, folder / "part.onnx"
    works: list[Callable[[], object]] = []
    for precision in ("fp32", "bf16"):
        winmode = "mul" if args.windows else "nan"
        detector = made(args, args.method, winmode=winmode, precision=precision)
        detector.fit(folder / "good.png", false_alarm_rate=None)
        detector.set_threshold(0.5)
        saved[precision] = folder / f"{precision}.safetensors"
        detector.save(saved[precision])
        batch = detector.to_batch([Image.open(folder / "part.png")])
        works.append(lambda detector=detector, batch=batch: detector.scorer(batch, ["part"]))
        if precision == "fp32":
            export_detector(detector, file, standard=args.provider == "openvino")
    precisions = PRECISIONS[args.provider]
    for precision in precisions:
        session = Graph(file, 0, args.provider, precision).session
        works.append(lambda session=session, batch=batch: session.run(None, {"pixels": batch.whole.numpy()}))
    wide, narrow, *given = shortest(works, args.repeats, torch.device("cpu"))
    rows = [["a photograph, pixels to map, s", *given, wide, narrow]]
    side = detector.config.detector.backbone.image_size
    del works, session, detector
    flags = ["--input", str(folder / "part.png"), "--format", "json", "--device", "cpu"]
    inspect = ["deploy/inspect.py", str(file), str(folder / "part.png"), "--format", "json"]
    commands = [
        *([*inspect, "--provider", args.provider, "--precision", one] for one in precisions),
        *(["predict.py", "--detector", str(saved[precision]), *flags] for precision in ("fp32", "bf16")),
    ]
    rounds = [[cost_of(command) for command in commands] for _ in range(args.repeats)]
    started = [min(several) for several in zip(*rounds)]
    rows.append(["start to first result, one photograph, s", *(cost.seconds for cost in started)])
    rows.append(["peak memory of that process, MiB", *(cost.memory for cost in started)])
    rows.append(["detector's file, MB", *map(size_of, [*(file for _ in precisions), *saved.values()])])
    return rows, side


def size_of(file: Path) -> float:
    """MB of a file and of its tensors' file."""
    return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*")) / 1e6


def agreement(args: argparse.Namespace) -> None:
    tested = sorted(path for path in (args.data / "test").rglob("*") if path.is_file())
    places = np.linspace(0, len(tested) - 1, min(args.photographs, len(tested))).astype(int)
    photographs, good, rows = (
        [tested[place] for place in places],
        sorted((args.data / "train/good").iterdir()),
        [],
    )
    for method in args.methods:
        if METHODS[method].needs_heads and not args.checkpoint:
            continue
        for winmode in ("nan", "mul") if args.windows else ("nan",):
            for references in args.references:
                detector = made(args, method, winmode=winmode, win_stride=args.win_stride)
                detector.fit(good[:references], false_alarm_rate=None)
                about = [method, "LFE" if winmode == "mul" else "", references]
                rows += [about + found for found in compared(args, detector, photographs)]
    formats = ("", "", "", "", ".1e", ".1e", "", ".2f", ".2f")
    print(tabulate(rows, AGREEMENT, "pipe", floatfmt=formats))


def compared(args: argparse.Namespace, detector: AnomalyDetector, photographs: list[Path]) -> list[list]:
    """For each way to compute: its name, the largest difference of any map and any score from PyTorch's, how
    many decisions differ, image AUROC in per cent and its change in points."""
    wanted, rows = [detector.predict(photo) for photo in photographs], []
    limit = float(np.median([found.score for found in wanted]))
    detector.set_threshold(limit)
    labels = [photo.parent.name != "good" for photo in photographs]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.onnx"
        export_detector(detector, file, halved=args.halved, standard=args.provider == "openvino")
        for precision in PRECISIONS[args.provider]:
            graph = Graph(file, 0, args.provider, precision)
            given = [graph.predict(open_image(photo), photo.name) for photo in photographs]
            maps = max(np.abs(one.patch_map - two.patch_map).max() for one, two in zip(given, wanted))
            scores = max(abs(one.score - two.score) for one, two in zip(given, wanted))
            others = sum(one.is_anomalous != (two.score >= limit) for one, two in zip(given, wanted))
            area, before = (
                100 * roc_auc_score(labels, [one.score for one in found]) for found in (given, wanted)
            )
            name = f"{NAMES[args.provider]} {'fp16 weights' if args.halved else precision}"
            rows.append([name, maps, scores, others, area, area - before])
    return rows


if __name__ == "__main__":
    main()
