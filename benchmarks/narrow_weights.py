"""What float16 weights and int8 products of an exported detector cost and bring on real photographs.

    python benchmarks/narrow_weights.py --data DIR --model ... --pretrained FILE --layers ...

One reference, method nearest, maps and masks on the patch grid. int8: onnxruntime's dynamic quantisation of
the products with weights, channel by channel. --provider openvino: what OpenVINO's float32 and bfloat16 do
instead, beside onnxruntime's float32 (needs deploy/requirements-openvino.txt).
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "lib")]
from fdsl_line.graph import Graph  # noqa: E402
from fdsl_line.photographs import open_image, to_pixels  # noqa: E402

from fdsl.api import AnomalyDetector  # noqa: E402
from fdsl.exporting import export_detector  # noqa: E402
from fdsl.flags.groups import add_backbone_flags  # noqa: E402

FLAGS = ("model", "pretrained", "model_config", "layers", "image_size")
COLUMNS = ("file", "MB", "auroc_sp", "ap_sp", "patches: auroc", "ap", "score moves", "map moves", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=60)
    parser.add_argument("--provider", choices=("cpu", "openvino"), default="cpu", help="as deploy/inspect.py")
    add_backbone_flags(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        graphs = (written if args.provider == "cpu" else written_for_openvino)(args, Path(folder))
        photographs = chosen(args.data, args.photographs)
        print(tabulate(measured(graphs, photographs, args.data), COLUMNS, "pipe", floatfmt=".4f"))


def made(args: argparse.Namespace) -> AnomalyDetector:
    """A detector that knows one reference."""
    data, tower = args.data, {name: getattr(args, name) for name in FLAGS}
    detector = AnomalyDetector.from_backbone(method="nearest", device="cpu", precision="fp32", **tower)
    detector.remember(sorted((data / "train" / "good").iterdir())[:1], false_alarm_rate=None)
    return detector


def written_for_openvino(args: argparse.Namespace, folder: Path) -> dict[str, Graph]:
    """The same detector as onnxruntime and as OpenVINO compute it."""
    detector, own, standard = made(args), folder / "own.onnx", folder / "standard.onnx"
    export_detector(detector, own)
    export_detector(detector, standard, standard=True)
    openvino = {f"OpenVINO {one}": Graph(standard, 0, "openvino", one) for one in ("fp32", "bf16")}
    return {"float32": Graph(own), **openvino}


def written(args: argparse.Namespace, folder: Path) -> dict[str, Graph]:
    """The same detector as three files."""
    detector = made(args)
    files = {name: folder / f"{name}.onnx" for name in ("float32", "float16", "int8")}
    export_detector(detector, files["float32"])
    export_detector(detector, files["float16"], halved=True)
    graph = onnx.load(files["float32"]).graph
    weights = {one.name for one in graph.initializer}
    products = [one.name for one in graph.node if one.op_type == "MatMul" and one.input[1] in weights]
    logging.disable(logging.WARNING)
    quantize_dynamic(
        files["float32"],
        files["int8"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        nodes_to_quantize=products,
    )
    return {name: Graph(file) for name, file in files.items()}


def chosen(data: Path, count: int) -> list[Path]:
    """So many photographs of data/test, evenly taken."""
    found = sorted(path for path in (data / "test").rglob("*") if path.is_file())
    return found[:: max(1, len(found) // count)]


def measured(graphs: dict[str, Graph], photographs: list[Path], data: Path) -> list[list]:
    """A row for each graph: metrics, the largest change from float32, and the median seconds."""
    maps, scores, seconds = ({name: [] for name in graphs} for _ in range(3))
    for photo in photographs:
        image = open_image(photo)
        for name, graph in graphs.items():
            pixels, begun = to_pixels(image, graph.side), time.perf_counter()
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
