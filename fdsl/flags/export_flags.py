"""export.py's flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fdsl.flags.groups import add_options, read
from utils.command_line import CommandLine
from utils.config import debug
from utils.options import CommandOptions, option

COMMON = ("detector", "output", "weights", "operators", "pretrained", "config")  # what --help shows


@dataclass(frozen=True)
class ExportFlags(CommandOptions):
    """What is exported, and how."""

    detector: Path = option(
        None,
        reads=Path,
        required=True,
        metavar="FILE",
        help="a fitted detector; what predict.py --save-detector or the page wrote",
    )
    output: Path = option(None, reads=Path, required=True, metavar="FILE.onnx", help="what is written")
    weights: str = option(
        "fp32",
        choices=("fp32", "fp16"),
        help="fp16: in half the size; weights and memory bank are stored in float16, maps move by about "
        "0.001, and nothing is computed faster (default $default)",
    )
    operators: str = option(
        "onnxruntime",
        choices=("onnxruntime", "onnx"),
        help="onnx: standard ONNX operators only; OpenVINO and other programs need them, in onnxruntime they "
        "are slower (default $default)",
    )
    pretrained: str | None = option(
        None, metavar="TAG|FILE", help="where the backbone's weights lie now; if they have moved"
    )
    model_config: str | None = option(
        None, metavar="DIR", help="where the backbone's model file lies now, if it has moved"
    )
    device: str = option(
        "cpu",
        metavar="auto|cpu|cuda|mps|N",
        help="where the detector computes what the graph is compared with (default $default)",
    )
    debug: bool = debug()


def parse(argv: list[str] | None, description: str | None) -> ExportFlags:
    """Reads and checks the command line."""
    parser = CommandLine(description, common=COMMON)
    add_options(parser, ExportFlags)
    args = parser.parse_args(argv)
    if args.output.suffix.lower() != ".onnx":
        parser.error(f"--output {args.output} does not end in .onnx: name the file so")
    if args.output.is_dir():
        parser.error(f"--output {args.output} is a folder: name a file in it")
    parser.save_settings(args)
    return read(ExportFlags, args)
