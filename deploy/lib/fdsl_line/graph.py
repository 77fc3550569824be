"""The ONNX file of export.py: what it says of itself, and what it says of a photograph."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from fdsl_line.boxes import Box, find_boxes, upsample
from fdsl_line.errors import Refused, one_line, printable
from fdsl_line.photographs import GreyRange, Tiles, to_pixels

FORMAT = "1"
CPU, OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # and what OpenVINO calls them
TINY = 1e-6  # scores are kept this far from 0 and 1


@dataclass(frozen=True)
class Found:
    """What is said of one photograph of `size` (width, height): its scores, its map (G,G), whether it is
    anomalous (None: there is no threshold), and the boxes of its hot regions, the hottest first."""

    size: tuple[int, int]
    score: float
    base_score: float
    window_score: float | None
    normal_percentile: float | None
    threshold: float | None
    anomalous: bool | None
    patch_map: np.ndarray
    boxes: list[Box]

    def row(self, name: str) -> dict[str, Any]:
        """Its line of scores.jsonl, as predict.py writes it."""
        return {
            "image": name,
            "score": self.score,
            "base_score": self.base_score,
            "window_score": self.window_score,
            "normal_percentile": self.normal_percentile,
            "threshold": self.threshold,
            "anomalous": self.anomalous,
            "boxes": [asdict(box) for box in self.boxes],
            "width": self.size[0],
            "height": self.size[1],
            "grid": len(self.patch_map),
            "picture": None,
        }


def providers_of(provider: str, precision: str, threads: int) -> list[Any]:
    """What onnxruntime is told to compute with; Refused for what it cannot."""
    if provider == "cpu" and precision == "fp32":
        return [CPU]
    if provider == "cpu":
        raise Refused(f"--precision {precision} is OpenVINO's: add --provider openvino, or leave it out.")
    if OPENVINO not in onnxruntime.get_available_providers():
        raise Refused(
            "This onnxruntime has no OpenVINO: make an environment for it and there "
            "pip install -r deploy/requirements-openvino.txt, or leave --provider out."
        )
    hints = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
        "NUM_STREAMS": "1",
        **({"INFERENCE_NUM_THREADS": str(threads)} if threads else {}),
    }
    return [(OPENVINO, {"device_type": "CPU", "load_config": json.dumps({"CPU": hints})}), CPU]


class Graph:
    """A detector that export.py wrote.

    `threads`: how many it computes with; 0: by cores. `provider`: cpu or openvino, which may compute in
    bf16 too (`precision`). Refused for any other file, for a damaged one, and where OpenVINO is missing.
    """

    def __init__(self, file: Path, threads: int = 0, provider: str = "cpu", precision: str = "fp32") -> None:
        self.file = file
        if not file.is_file():
            raise Refused(f"There is no file {printable(file)}; make it with export.py.")
        providers = providers_of(provider, precision, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
            self.facts: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
            raise Refused(
                f"{printable(file)} is not a whole ONNX file, or its tensors' file is not beside it "
                f"({one_line(error)}); copy or export it again."
            ) from error
        if len(self.session.get_providers()) < len(providers):  # onnxruntime goes on without it
            raise Refused("OpenVINO could not be started: install it again, or leave --provider out.")
        if "fdsl_format" not in self.facts:
            raise Refused(f"{printable(file)} was not written by export.py; name a file that was.")
        if self.facts["fdsl_format"] != FORMAT:
            raise Refused(
                f"{printable(file)} has format {printable(self.facts['fdsl_format'])}, this program reads "
                f"{FORMAT}; use the folder deploy/ of the version that wrote it."
            )
        try:
            self._read_facts()
        except (KeyError, ValueError, TypeError) as error:
            raise Refused(
                f"{printable(file)}: what it says of itself is not whole ({one_line(error)}); "
                "export it again."
            ) from error

    def _read_facts(self) -> None:
        self.side = int(self.facts["image_size"])
        self.threshold, self.level = self._number("threshold"), self._number("map_threshold")
        self.normal_mean = self._number("normal_mean")
        self.normal_deviation = self._number("normal_deviation")
        low, high = self._number("grey_low"), self._number("grey_high")
        self.grey = None if low is None or high is None else GreyRange(low, high)
        self.reference_sizes = [tuple(size) for size in json.loads(self.facts["reference_sizes"])]
        tiles = json.loads(self.facts["tiles"] or "null")
        self.tiles = None if tiles is None else Tiles(**tiles)
        self.outputs = [output.name for output in self.session.get_outputs()]

    def _number(self, name: str) -> float | None:
        """A number of the metadata; None for an empty text. ValueError for anything else."""
        value = float(self.facts[name]) if self.facts[name] else None
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
        return value

    def _percentile(self, score: float) -> float | None:
        """So many of a hundred good parts would score less; None where the detector does not know."""
        if self.normal_mean is None or self.normal_deviation is None:
            return None
        clean = min(max(score, TINY), 1 - TINY)
        apart = math.log(clean / (1 - clean)) - self.normal_mean
        if self.normal_deviation == 0:
            return 50.0 if apart == 0 else 100.0 * (apart > 0)
        return 100 * NormalDist().cdf(apart / self.normal_deviation)

    def look_at(self, photo: Image.Image, name: str) -> Found:
        """What is said of an RGB photograph; Refused, with its `name`, where its map is not finite."""
        values = self.session.run(None, {"pixels": to_pixels(photo, self.side, self.tiles)})
        given = {output: value[0] for output, value in zip(self.outputs, values)}
        if not all(np.isfinite(value).all() for value in given.values()):
            raise Refused(f"{name}: its anomaly map is not finite; check the photograph and the detector.")
        score, window = float(given["score"]), given.get("window_score")
        anomalous = None if self.threshold is None else score >= self.threshold
        boxes: list[Box] = []
        if anomalous is not False:
            boxes = find_boxes(upsample(given["map"], photo.height, photo.width), self.level)
        return Found(
            photo.size,
            score,
            float(given["base_score"]),
            None if window is None else float(window),
            self._percentile(score),
            self.threshold,
            anomalous,
            given["map"],
            boxes,
        )
