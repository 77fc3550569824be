"""How far deploy/inspect.py's maps, scores and decisions lie from PyTorch's on real photographs.

    python benchmarks/agreement.py --data DIR --checkpoint FILE --model ... --pretrained FILE --layers ...

DATA/train/good has the references, DATA/test the photographs, of which --photographs are taken evenly.
Without a checkpoint the methods with trained heads are left out. The threshold is the median score.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "lib")]
from fdsl_line.graph import Graph  # noqa: E402

from fdsl.api import AnomalyDetector  # noqa: E402
from fdsl.exporting import export_detector  # noqa: E402
from fdsl.flags.groups import add_backbone_flags  # noqa: E402
from models.methods.registry import METHODS  # noqa: E402
from utils.config import WindowConfig  # noqa: E402

COLUMNS = ("method", "windows", "references", "photographs", "map", "score", "other decisions")


def main() -> None:
    args = parse()
    rows = []
    for method in args.methods:
        if METHODS[method].needs_heads and not args.checkpoint:
            continue
        for windows in (False, True) if args.windows else (False,):
            for references in args.references:
                detector = made(args, method, windows, references)
                found = compared(detector, chosen(args.data, args.photographs))
                rows.append([method, "LFE" if windows else "", references, *found])
    print(tabulate(rows, COLUMNS, "pipe", floatfmt=".1e"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--methods", nargs="+", default=["nearest", "subspace", "plus", "fdsl", "both"])
    parser.add_argument("--references", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--windows", action="store_true", help="also with local windows")
    parser.add_argument("--win-stride", type=int, default=2)
    parser.add_argument("--photographs", type=int, default=12)
    add_backbone_flags(parser)
    return parser.parse_args()


def made(args: argparse.Namespace, method: str, windows: bool, references: int) -> AnomalyDetector:
    """A detector that knows the first references."""
    tower = {
        name: getattr(args, name) for name in ("model", "pretrained", "model_config", "layers", "image_size")
    }
    chosen = WindowConfig("mul" if windows else "nan", win_stride=args.win_stride)
    flags = {**tower, "method": method, "windows": chosen, "device": "cpu", "precision": "fp32"}
    if METHODS[method].needs_heads:
        detector = AnomalyDetector.from_checkpoint(args.checkpoint, **flags)
    else:
        detector = AnomalyDetector.from_backbone(**flags)
    good = sorted((args.data / "train" / "good").iterdir())
    detector.remember(good[:references], false_alarm_rate=None)
    return detector


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
    others = sum(one.anomalous != (two.score >= limit) for one, two in zip(given, wanted))
    return [len(photographs), max(maps), max(scores), others]


def chosen(data: Path, count: int) -> list[Path]:
    """So many photographs of data/test, evenly taken."""
    found = sorted(path for path in (data / "test").rglob("*") if path.is_file())
    return [found[place] for place in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]


if __name__ == "__main__":
    main()
