"""export.py's flags."""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.command_line import CommandLine

COMMON = ("detector", "output", "weights", "operators", "pretrained", "config")  # what --help shows


def parse(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = CommandLine(description, common=COMMON)
    parser.add_argument(
        "--detector",
        type=Path,
        required=True,
        metavar="FILE",
        help="a fitted detector; what predict.py --save-detector or the page wrote",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.onnx", help="what is written")
    parser.add_argument(
        "--weights",
        choices=("fp32", "fp16"),
        default="fp32",
        help="fp16: in half the size; weights and memory are kept in float16, maps move by about 0.001, and "
        "nothing is computed faster (default fp32)",
    )
    parser.add_argument(
        "--operators",
        choices=("onnxruntime", "onnx"),
        default="onnxruntime",
        help="onnx: the standard's alone; for OpenVINO and for other programs than onnxruntime, whose "
        "own ones are faster where it computes by itself (default onnxruntime)",
    )
    parser.add_argument(
        "--pretrained", metavar="TAG|FILE", help="where the backbone's weights lie now; if they have moved"
    )
    parser.add_argument(
        "--model-config", metavar="DIR", help="where the backbone's model file lies now, if it has moved"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="auto|cpu|cuda|mps|N",
        help="where the detector computes what the graph is compared with (default cpu)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    if args.output.suffix.lower() != ".onnx":
        parser.error(f"--output {args.output} does not end in .onnx: name the file so")
    if args.output.is_dir():
        parser.error(f"--output {args.output} is a folder: name a file in it")
    parser.save_settings(args)
    return args
