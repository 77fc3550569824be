"""A fitted detector as one ONNX file with metadata."""

from __future__ import annotations

import json
from pathlib import Path

from fdsl.api import AnomalyDetector
from fdsl.export.onnx_file import Written, require_packages, write_graph
from models.onnx_graph import DetectorGraph
from utils.errors import ModelError
from utils.options import as_stored

FORMAT = "5"


def export_detector(
    detector: AnomalyDetector, file: str | Path, halved: bool = False, standard: bool = False
) -> Written:
    """Writes the detector to an ONNX file (docs/deploy.md), whole or not at all. `halved`: weights and memory
    are stored in float16, in half the size. `standard`: only with operators of ONNX, without onnxruntime's
    own.

    ModelError for a detector that cannot be exported, or before `fit`.
    """
    require_packages()
    if not detector.ready:
        raise ModelError("The detector has no references yet: call fit() before it is exported.")
    if detector.reader.masks is not None:
        raise ModelError(
            f"{detector.reader.masks} holds a mask for each photograph, and an exported detector has one "
            "for all: fit it with one mask."
        )
    graph = DetectorGraph(detector.scorer.detector, detector.config.image_score)
    metadata = {
        **metadata_of(detector),
        "weights": "float16" if halved else "float32",
        "operators": "onnx" if standard else "onnxruntime",
    }
    return write_graph(Path(file), graph, metadata, halved, standard)


def metadata_of(detector: AnomalyDetector) -> dict[str, str]:
    """The metadata for readers of the graph, as texts; "" for a missing value."""
    made, limit, grey = detector.config.detector, detector.threshold, detector.reader.grey
    normal = detector.decision.normal
    low, high = detector.heat_scale
    layout = detector.scorer.detector.layout
    facts = {
        "fdsl_format": FORMAT,
        "method": made.method,
        "image_size": detector.image_size,
        "grid": detector.grid,
        "image_score": detector.config.image_score,
        "threshold": None if limit is None else limit.score,
        "map_threshold": None if limit is None else limit.pixel_threshold,
        "threshold_source": None if limit is None else limit.source,
        "normal_mean": None if normal is None else normal.distribution[0],
        "normal_deviation": None if normal is None else normal.distribution[1],
        "map_median": detector.decision.map_median(detector.scorer.detector.of_distances),
        "grey_low": None if grey is None else grey.low,
        "grey_high": None if grey is None else grey.high,
        "heat_low": low,
        "heat_high": high,
        "fusion": made.windows.winmode,
        "window_weight": made.windows.win_weight,
        "mean": " ".join(map(repr, detector.backbone.mean.tolist())),
        "std": " ".join(map(repr, detector.backbone.std.tolist())),
        "tiles": None if layout is None else json.dumps(layout.crops._asdict()),
        "reference_sizes": json.dumps(detector.references.sizes),
        "reference_statistics": json.dumps(detector.references.statistics.tolist()),
        "settings": json.dumps(as_stored(detector.config), sort_keys=True),
    }
    return {name: "" if value is None else str(value) for name, value in facts.items()}
