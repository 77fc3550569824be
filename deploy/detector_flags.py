"""The flags that both programs have: the detector's file, and how it decides and computes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.command_line import CommandLine, finite, whole
from utils.errors import ConfigError
from utils.limits import MAX_PIXELS
from utils.lock import locked
from utils.text import one_line, printable

if TYPE_CHECKING:
    from deploy.graph import Graph

logger = logging.getLogger("fdsl")
MEMORY_CURE = "close other programs"


def detector_command_line(description: str, program: str) -> CommandLine:
    """A command line of these flags."""
    parser = CommandLine(description, program, settings=True)
    parser.add_argument("detector", type=Path, metavar="FILE.onnx", help="what export.py wrote")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    group = parser.add_argument_group("detector")
    group.add_argument(
        "--threshold", type=finite, metavar="N", help="call a photograph anomalous from this score on"
    )
    group.add_argument(
        "--max-pixels",
        type=whole(1),
        default=MAX_PIXELS,
        metavar="N",
        help="refuse photographs of more pixels (default 100,000,000)",
    )
    group.add_argument("--threads", type=whole(0, 256), default=0, metavar="N", help="0: by cores (default)")
    group.add_argument(
        "--provider",
        choices=("cpu", "openvino"),
        default="cpu",
        help="openvino: faster on Intel's processors, with a file of export.py --operators onnx "
        "(pip install onnxruntime-openvino; default cpu)",
    )
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16, with --provider openvino: two to four times as fast on a processor with AMX; scores move "
        "(docs/deploy.md; default fp32)",
    )
    return parser


def require_packages() -> None:
    """ConfigError where onnxruntime, numpy or pillow cannot be imported."""
    try:
        import numpy  # noqa: F401
        import onnxruntime  # noqa: F401
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"A package is missing ({one_line(error)}): pip install onnxruntime numpy pillow."
        ) from error


def graph_of(args: argparse.Namespace) -> Graph:
    """The detector, with the threshold that was given."""
    from deploy.graph import Graph

    graph = Graph(args.detector, args.threads, args.provider, args.precision)
    if args.provider == "openvino" and graph.facts.get("operators") != "onnx":
        logger.warning(
            "warning: %s has operators that OpenVINO leaves to onnxruntime, which is slow; export it with "
            "--operators onnx",
            args.detector,
        )
    if args.threshold is not None:
        graph.threshold, graph.pixel_threshold = args.threshold, None
    return graph


def facts_of(graph: Graph) -> dict[str, Any]:
    """What config.json holds of a detector."""
    return {"detector": str(graph.file), "threshold": graph.threshold, "settings": graph.settings}


@contextmanager
def alone_in(output: Path | None) -> Iterator[None]:
    """Within it no other process writes to the folder of --output; ConfigError where one does, and for a
    file."""
    if output is None:
        yield
        return
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {printable(output)} is a file; name a folder.")
    with locked(output / ".lock", printable(output), "name another folder with --output"):
        yield
