"""The ONNX file of export.py: its metadata, and its result for a photograph."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from data.images import photograph_to_array
from deploy.boxes import find_boxes
from utils.errors import ConfigError, DataError
from utils.files import sampled_digest
from utils.grey_range import GreyRange
from utils.hot_regions import Box, upsample
from utils.image_statistics import PER_IMAGE, reason_of, statistics_of
from utils.log_odds import percentile_of
from utils.text import one_line, printable
from utils.tile_layout import MOST_IN_ALL, Crops

FORMAT = "1"
CPU, OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # and what OpenVINO calls them
OUTPUTS = (["base_score", "map", "score"], ["base_score", "map", "score", "window_score"])
SMALLEST_SIDE, LARGEST_SIDE = 4, 8192  # pixels of what a detector takes,
LARGEST_PHOTO = 2**31  # and of a reference
MOST_SIZES = 100_000  # references whose sizes they hold


@dataclass(frozen=True)
class Result:
    """The result of one photograph of `size` (width, height): its scores, its map (G,G), whether it is
    anomalous (None: there is no threshold), and the boxes of its hot regions, the hottest first. statistics:
    those of the image (6,)."""

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


def whole(name: str, value: object, smallest: int = 1, largest: int = LARGEST_SIDE) -> int:
    """A number of pixels from the metadata, also as a text; ValueError for anything else."""
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if type(number) is not int or not smallest <= number <= largest:
        raise ValueError(f"{name} is {str(value)[:40]}")
    return number


def pairs(
    name: str, values: object, smallest: int = 1, largest: int = LARGEST_SIDE
) -> tuple[tuple[int, int], ...]:
    """Pairs of numbers of pixels from the metadata; ValueError for anything else."""
    if not isinstance(values, list) or len(values) > MOST_SIZES:
        raise ValueError(f"{name} is no list of sizes")
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in values):
        raise ValueError(f"{name} holds what is no pair of numbers")
    return tuple(
        (whole(name, one, smallest, largest), whole(name, other, smallest, largest)) for one, other in values
    )


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


class Graph:
    """A detector that export.py wrote.

    `threads`: how many it computes with; 0: by cores. `provider`: cpu or openvino, which may compute in
    bf16 too (`precision`). ConfigError for any other file, a damaged one, one whose metadata no detector has,
    and where OpenVINO is missing.
    """

    def __init__(self, file: Path, threads: int = 0, provider: str = "cpu", precision: str = "fp32") -> None:
        self.file, self.name = file, printable(file)
        if not file.is_file():
            raise ConfigError(f"There is no file {self.name}; make it with export.py.")
        providers = providers_of(provider, precision, threads)
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
        if "fdsl_format" not in self.facts:
            raise ConfigError(f"{self.name} was not written by export.py; name a file that was.")
        if self.facts["fdsl_format"] != FORMAT:
            raise ConfigError(
                f"{self.name} has format {printable(self.facts['fdsl_format'][:40])}, this program reads "
                f"{FORMAT}; use the inspect.pyz that was written with it."
            )
        try:
            self._read_facts()
            self._check_graph()
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"{self.name}: its metadata is not whole ({one_line(error)}); export it again."
            ) from error

    def _read_facts(self) -> None:
        self.side = whole("image_size", self.facts["image_size"], SMALLEST_SIDE)
        self.threshold, self.level = self._number("threshold"), self._number("map_threshold")
        heat = self._number("heat_low"), self._number("heat_high")
        if heat[0] is None or heat[1] is None or not heat[0] < heat[1]:
            raise ValueError(f"heat from {heat[0]} to {heat[1]}")
        self.heat_scale = heat[0], heat[1]
        self.normal_mean = self._number("normal_mean")
        self.normal_deviation = self._number("normal_deviation")
        low, high = self._number("grey_low"), self._number("grey_high")
        self.grey = None if low is None or high is None else GreyRange(low, high)
        self.reference_sizes = pairs(
            "reference_sizes", json.loads(self.facts["reference_sizes"]), largest=LARGEST_PHOTO
        )
        self.statistics = np.array(json.loads(self.facts["reference_statistics"]), np.float64)
        if self.statistics.shape[1:] != (PER_IMAGE,) and self.statistics.shape != (0,):
            raise ValueError(f"reference_statistics are no lists of {PER_IMAGE} numbers")
        if not np.isfinite(self.statistics).all():
            raise ValueError("reference_statistics hold what is no number")
        self.tiles = self._tiles(json.loads(self.facts["tiles"] or "null"))
        self.settings = json.loads(self.facts["settings"])
        if not isinstance(self.settings, dict):
            raise ValueError("settings are no object")
        if self.normal_deviation is not None and self.normal_deviation < 0:
            raise ValueError(f"normal_deviation is {self.normal_deviation}")
        if self.grey is not None and not self.grey.low < self.grey.high:
            raise ValueError(f"grey values from {self.grey.low} to {self.grey.high}")
        if tensors := json.loads(self.facts.get("tensors", "null")):
            self._check_tensors(tensors["file"], tensors["digest"])

    def _tiles(self, given: Any) -> Crops | None:
        if given is None:
            return None
        if not isinstance(given, dict) or set(given) != {"width", "height", "origins"}:
            raise ValueError("tiles are no width, height and origins")
        ((width, height),) = pairs(
            "tiles", [[given["width"], given["height"]]], largest=MOST_IN_ALL * self.side
        )
        origins = pairs("the tiles' origins", given["origins"], 0, MOST_IN_ALL * self.side)
        inside = all(top + self.side <= height and left + self.side <= width for top, left in origins)
        if not 0 < len(origins) <= MOST_IN_ALL or not inside:
            raise ValueError("a tile lies outside the photograph")
        return Crops(width, height, origins)

    def _check_tensors(self, name: str, digest: str) -> None:
        """ConfigError where the tensors' file is another one's."""
        tensors = self.file.with_name(name)
        if sampled_digest(tensors) != digest:
            raise ConfigError(
                f"{printable(tensors)} is not the tensors' file that belongs to {self.name}; copy both again."
            )

    def _check_graph(self) -> None:
        """ValueError where the graph takes or gives something else than a detector's does."""
        shape = [3, self.side, self.side]
        if self.tiles is not None:
            shape.insert(0, 1 + len(self.tiles.origins))
        taken = [(one.name, one.type, [*one.shape[1:]]) for one in self.session.get_inputs()]
        if taken != [("pixels", "tensor(uint8)", shape)]:
            raise ValueError(f"its graph does not take pixels {shape} uint8")
        self.outputs = [output.name for output in self.session.get_outputs()]
        if sorted(self.outputs) not in OUTPUTS:
            raise ValueError("its graph does not give map, score and base_score")

    def _number(self, name: str) -> float | None:
        """A number of the metadata; None for an empty text. ValueError for anything else."""
        value = float(self.facts[name]) if self.facts[name] else None
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
        return value

    def look_at(self, photo: Image.Image, name: str) -> Result:
        """The result of an RGB photograph; DataError, with its `name`, where its map is not finite;
        ConfigError where the graph fails or gives something else than a map and scores."""
        pixels = photograph_to_array(photo, self.side, self.tiles)[None]
        try:
            values = self.session.run(None, {"pixels": pixels})
            given = {output: value[0] for output, value in zip(self.outputs, values)}
            shapes = {output: value.shape for output, value in given.items()}
            numbers = all(value.dtype == np.float32 for value in given.values())
        except Exception as error:  # onnxruntime raises a class of its own for each kind of failure
            if "memory" in str(error).lower() or "bad_alloc" in str(error):
                raise MemoryError from error
            raise ConfigError(
                f"{self.name}: its graph fails ({one_line(error)}); export it again."
            ) from error
        side = shapes["map"][0] if len(shapes["map"]) == 2 else 0
        scalars = [output for output in ("score", "base_score", "window_score") if output in shapes]
        if not numbers or shapes["map"] != (side, side) or side == 0 or any(shapes[o] for o in scalars):
            raise ConfigError(f"{self.name}: its graph gives no map and scores; export it again.")
        if not all(np.isfinite(value).all() for value in given.values()):
            raise DataError(f"{name}: its anomaly map is not finite; check the photograph and the detector")
        score, window = float(given["score"]), given.get("window_score")
        percentile = None
        if self.normal_mean is not None and self.normal_deviation is not None:
            percentile = percentile_of(score, self.normal_mean, self.normal_deviation)
        statistics = statistics_of(pixels[0] if self.tiles is None else pixels[0, 0])
        reason = reason_of(statistics, self.statistics) if len(self.statistics) else ""
        anomalous = None if self.threshold is None else score >= self.threshold
        boxes: list[Box] = []
        if anomalous is not False and not reason:
            boxes = find_boxes(upsample(given["map"], photo.height, photo.width), self.level)
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
