"""The ONNX file of export.py: its metadata, and its result for a photograph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from data.images import photograph_to_array
from deploy.metadata import FIELDS, LARGEST_SIDE, OF_TILES, read_fields
from deploy.numpy_boxes import find_boxes
from utils.errors import ConfigError, DataError
from utils.files import parsed_json
from utils.hot_regions import Box, upsample
from utils.image_statistics import reason_of, reason_of_map, statistics_of
from utils.limits import GreyRange
from utils.numbers import percentile_of
from utils.onnx_bytes import checksum_of, require_sealed
from utils.text import one_line, printable
from utils.tile_layout import Crops

FORMAT = "5"
CPU, OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"
LEAST_HEAT = 1e-30  # map values between no heat and opaque heat
MOST_BRACKETS = 100  # in the settings
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # and what OpenVINO calls them


@dataclass(frozen=True)
class Result:
    """The result of one photograph of `size` (width, height): its scores, its map (G,G), whether it is
    anomalous (None: there is no threshold), and the boxes of its hot regions, the hottest first. statistics:
    those of the image (11,)."""

    size: tuple[int, int]
    score: float
    base_score: float
    window_score: float | None
    normal_percentile: float | None
    threshold: float | None
    is_anomalous: bool | None
    reason: str
    patch_map: np.ndarray
    boxes: list[Box]
    statistics: np.ndarray


def providers_of(provider: str, precision: str, threads: int) -> list[Any]:
    """What onnxruntime computes with; ConfigError for what it cannot."""
    if provider == "cpu" and precision == "fp32":
        return [CPU]
    if provider == "cpu":
        raise ConfigError(f"--precision {precision} is OpenVINO's: add --provider openvino, or leave it out.")
    if OPENVINO not in onnxruntime.get_available_providers():
        raise ConfigError(
            "This onnxruntime has no OpenVINO: make an environment for it and there "
            "pip install onnxruntime-openvino numpy pillow, or leave --provider out."
        )
    hints = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
        "NUM_STREAMS": "1",
        **({"INFERENCE_NUM_THREADS": str(threads)} if threads else {}),
    }
    return [(OPENVINO, {"device_type": "CPU", "load_config": json.dumps({"CPU": hints})}), CPU]


def is_result(given: dict[str, Any]) -> bool:
    """Whether a graph gives what a detector's does for one photograph: a square map and scores, in
    float32."""
    arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    shapes = {name: value.shape for name, value in arrays.items() if value.dtype == np.float32}
    side = shapes["map"][-1] if shapes.get("map") else 0
    scores = dict.fromkeys(given.keys() | {"score", "base_score"}, (1,))
    return 0 < side <= LARGEST_SIDE and shapes == {**scores, "map": (1, side, side)}


class Graph:
    """A detector that export.py wrote.

    `threads`: how many it computes with; 0: by cores. `provider`: cpu or openvino, which may compute in
    bf16 too (`precision`). ConfigError for any other file, a damaged one, one whose metadata was changed, and
    where OpenVINO is missing.
    """

    def __init__(self, file: Path, threads: int = 0, provider: str = "cpu", precision: str = "fp32") -> None:
        self.file, self.name = file, printable(file)
        if not file.is_file():
            raise ConfigError(f"There is no file {self.name}; make it with export.py.")
        providers = providers_of(provider, precision, threads)
        require_sealed(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        try:
            # with its fallback onnxruntime prints to stdout what is wrong, and tries the same again
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=providers, enable_fallback=0
            )
            self.facts: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
            raise ConfigError(
                f"{self.name} is not a whole ONNX file, or its tensors' file is not next to it "
                f"({one_line(error)}); copy or export it again."
            ) from error
        if len(self.session.get_providers()) < len(providers):  # onnxruntime goes on without it
            raise ConfigError("OpenVINO could not be started: install it again, or leave --provider out.")
        if (made := self.facts.get("fdsl_format", "")) != FORMAT:
            raise ConfigError(
                f"{self.name} has format {printable(made[:40]) or 'none'}, this program reads "
                f"{FORMAT}; use the inspect.pyz that was written with it."
            )
        try:
            self._read_facts()
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{self.name}: its metadata is not whole ({one_line(error)}); export it again."
            ) from error

    def _read_facts(self) -> None:
        """Errors of many kinds for a file that was damaged, or that another program wrote; ConfigError where
        the tensors' file is another one's."""
        values = read_fields(FIELDS, self.facts)
        self.side, self.threshold, self.pixel_threshold = (
            values[name] for name in ("image_size", "threshold", "map_threshold")
        )
        self.normal_mean, self.normal_deviation = values["normal_mean"], values["normal_deviation"]
        self.map_median = values["map_median"]
        self.heat_scale = low, high = values["heat_low"], values["heat_high"]
        if high - low < LEAST_HEAT:
            raise ValueError("heat_low is not below heat_high")
        black, white = values["grey_low"], values["grey_high"]
        self.grey = None if black is None or white is None else GreyRange(black, white)
        self.reference_sizes = [tuple(size) for size in values["reference_sizes"].tolist()]
        self.statistics = values["reference_statistics"]
        self.settings = self._read_settings()
        self.tiles = self._read_tiles()
        shape = self.session.get_inputs()[0].shape[1:]
        if shape != [*([1 + len(self.tiles.origins)] if self.tiles else []), 3, self.side, self.side]:
            raise ValueError("its graph takes other photographs")
        self._check_tensors()

    def _read_settings(self) -> dict[str, Any]:
        """For people: they are written to config.json as they are."""
        text = self.facts["settings"]
        settings = parsed_json(text)
        if not isinstance(settings, dict) or text.count("{") + text.count("[") > MOST_BRACKETS:
            raise ValueError("settings are not what export.py writes")
        json.dumps(settings, allow_nan=False)
        return settings

    def _read_tiles(self) -> Crops | None:
        stored = parsed_json(self.facts["tiles"] or "null")
        if stored is None:
            return None
        values = read_fields(OF_TILES, stored)
        width, height, origins = values["width"], values["height"], values["origins"]
        outside = origins + self.side > (height, width)
        if outside.any() or width * height > len(origins) * self.side**2:
            raise ValueError("its tiles do not cover a photograph")
        return Crops(width, height, tuple(map(tuple, origins.tolist())))

    def _check_tensors(self) -> None:
        """ConfigError where the tensors' file, which a large detector has, is another one's."""
        tensors = parsed_json(self.facts.get("tensors", "null"))
        if (
            tensors is not None
            and checksum_of(file := self.file.with_name(tensors["file"])) != tensors["checksum"]
        ):
            raise ConfigError(
                f"{printable(file)} is not the tensors' file that belongs to {self.name}; copy both again."
            )

    def predict(self, photo: Image.Image, name: str) -> Result:
        """The result of an RGB photograph; DataError, with its `name`, where its map is not finite;
        ConfigError where the graph fails."""
        pixels = photograph_to_array(photo, self.side, self.tiles)[None]
        try:
            values = self.session.run(None, {"pixels": pixels})
        except Exception as error:  # onnxruntime raises a class of its own for each kind of failure
            if "memory" in str(error).lower() or "bad_alloc" in str(error):
                raise MemoryError from error
            raise ConfigError(
                f"{self.name}: its graph fails ({one_line(error)}); export it again."
            ) from error
        given = {output.name: value for output, value in zip(self.session.get_outputs(), values)}
        if not is_result(given):
            raise ConfigError(f"{self.name}: its graph gives no map and scores; export it again.")
        given = {name: value[0] for name, value in given.items()}
        if not all(np.isfinite(value).all() for value in given.values()):
            raise DataError(f"{name}: its anomaly map is not finite; check the photograph and the detector")
        score, window = float(given["score"]), given.get("window_score")
        percentile = None
        if self.normal_mean is not None and self.normal_deviation is not None:
            percentile = percentile_of(score, self.normal_mean, self.normal_deviation)
        statistics = statistics_of(pixels[0] if self.tiles is None else pixels[0, 0])
        reason = reason_of(statistics, self.statistics) if len(self.statistics) else ""
        reason = reason or reason_of_map(given["map"], self.map_median)
        anomalous = None if self.threshold is None else score >= self.threshold
        boxes: list[Box] = []
        if anomalous is not False and not reason:
            boxes = find_boxes(upsample(given["map"], photo.height, photo.width), self.pixel_threshold)
        return Result(
            size=photo.size,
            score=score,
            base_score=float(given["base_score"]),
            window_score=None if window is None else float(window),
            normal_percentile=percentile,
            threshold=self.threshold,
            is_anomalous=True if reason else anomalous,
            reason=reason,
            patch_map=given["map"],
            boxes=boxes,
            statistics=statistics,
        )
