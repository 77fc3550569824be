"""A detector's graph as an ONNX file, which is compared with the detector before it gets its name."""

from __future__ import annotations

import glob
import importlib.util
import json
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdsl.export.onnx_operators import fused_operators
from models.onnx_graph import DetectorGraph
from utils.errors import ConfigError, ModelError
from utils.files import TEMPORARY, sync_folder
from utils.lock import locked
from utils.onnx_bytes import checksum_of, seal
from utils.signals import before_leaving
from utils.text import one_line

OPSET = 18
logger = logging.getLogger("fdsl")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CURE = "pip install -r requirements-export.txt"
LARGEST = 2**31 - 2**24  # bytes of tensors in one ONNX file; protobuf's limit is 2 GiB
TOLERANCE = {False: 1e-4, True: 1e-2}  # for maps and scores of both; True: with halved weights
TIES = 0.005  # of a map's patches, for which two of the memory bank are equally near up to rounding
WORTH_HALVING = 1024  # values of a tensor, at least
SEED = 0


@dataclass(frozen=True)
class Written:
    """An exported detector: its bytes, the file of its tensors (None: all in one), and the largest difference
    between graph and detector."""

    size: int
    tensors_file: Path | None
    gap: float


def require_packages() -> None:
    """ConfigError where a package that export needs is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"Export needs {', '.join(missing)}: {CURE}.")


def write_graph(
    file: Path, graph: DetectorGraph, metadata: Mapping[str, str], halved: bool, standard: bool
) -> Written:
    """Writes the graph to `file`, whole or not at all. `halved`, `standard`: as for `export_detector`.

    ModelError, and nothing is written, where onnxruntime gives other maps or scores than the detector.
    """
    logger.info("step 1 of 3: tracing the detector ...")
    program = traced(graph, standard)
    if halved:
        halve_tensors(program.model.graph)
    program.model.metadata_props.update(metadata)
    values = [value.const_value for value in program.model.graph.initializers.values()]
    large = sum(value.nbytes for value in values if value is not None) > LARGEST
    logger.info("step 2 of 3: writing the graph ...")
    with temporary_folder(file) as folder:
        program.save(folder / file.name, external_data=large)
        del program, values
        if large:
            note_tensors(folder / file.name)
        seal(folder / file.name)
        logger.info("step 3 of 3: onnxruntime runs it on three pictures, and so does the detector ...")
        gap = difference(folder / file.name, graph)
        if not gap <= TOLERANCE[halved]:
            raise ModelError(
                f"onnxruntime's maps and scores differ by {gap:.1e} from the detector's, more than "
                f"{TOLERANCE[halved]:g}: nothing was written; please report it with the versions of torch "
                "and onnxruntime."
            )
        files = sorted(folder.iterdir(), key=lambda made: made.name == file.name)  # the file itself last
        size = sum(made.stat().st_size for made in files)
        for made in files:
            with open(made, "rb") as content:
                os.fsync(content.fileno())
            os.replace(made, file.with_name(made.name))
    sync_folder(file.parent)
    return Written(size, file.with_name(files[0].name) if large else None, gap)


def traced(graph: DetectorGraph, standard: bool = False) -> Any:
    """The graph as a torch.onnx.ONNXProgram for any batch size; ModelError for one that torch cannot trace.
    `standard`: see write_graph."""
    device = graph.detector.backbone.mean.device
    graph(photographs(1, graph.shape).to(device))  # makes the backbone's tables of positions before the trace
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # torch.onnx and onnxscript log for their developers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                graph,
                (photographs(2, graph.shape).to(device),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=list(graph.outputs),
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                custom_translation_table={} if standard else fused_operators(),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = one_line(error.__cause__ or error)
        raise ModelError(
            f"This detector cannot be written as a graph ({reason}) by PyTorch {torch.__version__}; take the "
            "PyTorch of requirements.txt, inspect with predict.py, or make the detector with another --model."
        ) from error
    finally:
        logging.disable(before)
    return program


def note_tensors(file: Path) -> None:
    """Writes the checksum of the tensors' file next to `file` into its metadata, so that files that do not
    belong together are refused."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    for other in file.parent.iterdir():
        if other != file:
            tensors = {"file": other.name, "checksum": checksum_of(other)}
            model.metadata_props.add(key="tensors", value=json.dumps(tensors))
    onnx.save(model, file)


def halve_tensors(graph: Any) -> None:
    """Stores the large float32 tensors of an onnx_ir graph as float16; the graph casts them back."""
    import onnx_ir

    first = graph[0]
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor.dtype != onnx_ir.DataType.FLOAT or tensor.size < WORTH_HALVING:
            continue
        halved = onnx_ir.tensor(tensor.numpy().astype(np.float16), name=f"{name}.half")
        half = onnx_ir.Value(
            name=halved.name, shape=value.shape, type=onnx_ir.TensorType(halved.dtype), const_value=halved
        )
        cast = onnx_ir.node("Cast", [half], {"to": onnx_ir.DataType.FLOAT.value})
        onnx_ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
        graph.register_initializer(half)
        graph.insert_before(first, cast)


def photographs(count: int, shape: Sequence[int]) -> Tensor:
    """Test pictures (count,*shape) uint8 of soft patches and noise, the same every time."""
    generator, size = torch.Generator().manual_seed(SEED), (count, *shape)
    soft = torch.rand(math.prod(size[:-2]), 1, 8, 8, generator=generator)
    soft = torch.nn.functional.interpolate(soft, size[-2:], mode="bilinear").view(size)
    return (255 * (0.8 * soft + 0.2 * torch.rand(size, generator=generator))).to(torch.uint8)


def difference(file: Path, graph: DetectorGraph) -> float:
    """The largest difference (`gap_of`) between onnxruntime's and the detector's maps and scores, for one
    photograph and for two."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else onnxruntime collects telemetry
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    device = graph.detector.backbone.mean.device
    gap = 0.0
    for count in (1, 2):
        pixels = photographs(count, graph.shape)
        given = session.run(None, {"pixels": pixels.numpy()})
        for ours, theirs in zip(graph.plain(pixels.to(device)), given, strict=True):
            gap = max(gap, gap_of(ours.cpu(), torch.from_numpy(theirs)))
    return gap


def gap_of(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of maps (B,G,G), without the share TIES of each one's patches, or of scores
    (B,); infinite where a value is not finite."""
    gaps = (ours - theirs).abs().reshape(len(ours), -1).sort(-1).values
    if not bool(gaps.isfinite().all()):
        return math.inf
    return float(gaps[:, math.ceil((1 - TIES) * gaps.shape[1]) - 1].max())


@contextmanager
def temporary_folder(file: Path) -> Iterator[Path]:
    """A temporary folder next to `file`, removed after the block and at an interruption; leftovers of a
    killed export are removed too. An OSError names `file`; ConfigError where another process writes it."""
    folder = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_name(f".{file.name}.lock"), str(file), "name another file with --output"):
            for leftover in file.parent.glob(f".{glob.escape(file.name[:40])}.????????{TEMPORARY}"):
                shutil.rmtree(leftover, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(dir=file.parent, prefix=f".{file.name[:40]}.", suffix=TEMPORARY))
            before_leaving(partial(shutil.rmtree, folder, ignore_errors=True))
            yield folder
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
