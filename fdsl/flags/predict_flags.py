"""predict.py's flags."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fdsl.config.contradictions import OF_PREDICT, Asked, Rule, first_contradiction
from fdsl.config.resolve import OF_DETECTORS, refuse_without_effect
from fdsl.config.run_config import LOWEST_RATE, DetectorConfig, FittedConfig, RunConfig
from fdsl.flags.groups import (
    add_detector_options,
    add_max_pixels,
    add_option,
    add_preset_flag,
    add_runtime_flags,
    take_preset,
)
from models.methods.registry import DEFAULT, WITH_HEADS
from utils.arguments import finite, real, whole
from utils.command_line import CommandLine
from utils.config import BATCH, BackboneConfig
from utils.options import options_of

# What a saved detector holds: these flags make one, and do not change it afterwards.
MAKING_FLAGS = (
    "preset",
    *(name for name, one in OF_DETECTORS.items() if not (one.place or one.research)),
    *("references", "checkpoint", "method", "image_score", "rotate_references"),
)
OF_DOCTOR = (
    "preset",
    "device",
    "precision",
    *(name.replace("_", "-") for name in options_of(BackboneConfig)),
)
OF_INPUT = (  # what only photographs that are inspected have a use for
    *("output", "format", "exit-code", "resume", "pictures", "save-maps", "batch-size", "workers"),
    *("save-masks", "coco", "min-area"),
)
EVERY = 1.0  # seconds between two frames of a camera
COMMON = (  # what --help shows
    *("references", "input", "output", "calibration", "false-alarm-rate", "preset", "save-detector"),
    *("detector", "add-references", "format", "device", "doctor"),
)


def parse(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = make_parser(CommandLine(description, common=COMMON))
    args = parser.parse_args(argv)
    if problem := contradiction(args, OF_PREDICT):
        parser.error(problem)
    _refuse_without_effect(args, parser)
    parser.save_settings(args)
    take_preset(args)
    return args


def make_parser(parser: CommandLine) -> CommandLine:
    """The parser, with predict.py's flags."""
    what = parser.add_argument_group("input and output")
    what.add_argument(
        "--input",
        nargs="+",
        metavar="FILE|DIR|GLOB|TAR|@LIST",
        help="photographs to score; folders are searched to their bottom; of a .tar its members; @LIST: a "
        "file with a path on each line; or one camera, stream or clip: /dev/video0 (or 0), rtsp://..., "
        "clip.mp4",
    )
    what.add_argument(
        "--every",
        type=real(0, 86400),
        metavar="SECONDS",
        help="of a camera, a stream or a clip: seconds from one scored frame to the next "
        f"(default {EVERY:g}; 0: as many as it can, of a clip all)",
    )
    what.add_argument(
        "--show", action="store_true", help="print what --detector holds, with its references, and end"
    )
    what.add_argument(
        "--doctor",
        action="store_true",
        help="check this machine; packages, GPU, precision, weights and a timed pass, and how to get what "
        "is missing",
    )
    what.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the results (needed unless --format json)"
    )
    add_detector_flags(parser)
    _add_decision_flags(parser)
    _add_output_flags(parser)
    return parser


def _add_decision_flags(parser: argparse.ArgumentParser) -> None:
    decision = parser.add_argument_group("threshold (by default a target false-positive rate of 0.01)")
    decision.add_argument(
        "--false-alarm-rate",
        type=_rate,
        metavar="0..1|none",
        help="target false-positive rate; how often a normal image may be called anomalous; from "
        "--calibration, or else estimated from the references alone; none: no threshold",
    )
    decision.add_argument(
        "--calibration",
        nargs="+",
        metavar="DIR|FILE",
        help="further normal images, for the threshold; it is their conformal quantile, which is more "
        "reliable: a rate of 0.01 takes 99 of them, 0.05 takes 19",
    )
    decision.add_argument(
        "--threshold",
        type=_threshold,
        metavar="N|batch",
        help="call a photograph anomalous from this score on; batch: from the bulk of the input images "
        "themselves, most of which must be normal",
    )
    decision.add_argument(
        "--labels",
        type=Path,
        metavar="DIR|CSV",
        help="labelled photographs, for the threshold with the best F1; a folder with good/ and defect "
        "folders, or a file with a header "
        "image,label and paths relative to it, whose labels are good (ok, pass, 0) or anomalous (nok, fail, "
        "defect, 1); another word is refused",
    )


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    written = parser.add_argument_group("what comes out")
    written.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="json: one JSON object per line; on standard output, as it goes",
    )
    written.add_argument(
        "--save-detector", type=Path, metavar="FILE", help="write everything that later runs need"
    )
    written.add_argument(
        "--exit-code", action="store_true", help="exit with 1 when a photograph is anomalous"
    )
    written.add_argument(
        "--resume", action="store_true", help="go on where a run with the same settings stopped"
    )
    written.add_argument(
        "--pictures",
        choices=("all", "anomalous", "none"),
        default="all",
        help="photographs of which a picture beside its heat map is written, with contours (default all)",
    )
    written.add_argument(
        "--save-masks", action="store_true", help="write a PNG mask of each photograph, at its own size"
    )
    written.add_argument(
        "--coco", type=Path, metavar="FILE", help="write all regions as COCO JSON, polygons with scores"
    )
    written.add_argument("--save-maps", action="store_true", help="write maps.npz")
    written.add_argument(
        "--batch-size", type=whole(1), default=4, metavar="N", help="photographs scored at once (default 4)"
    )


def add_detector_flags(parser: argparse.ArgumentParser, reads_files: bool = True) -> None:
    """What makes or loads a detector, and where it runs."""
    group = parser.add_argument_group("detector")
    add_preset_flag(group)
    group.add_argument("--references", nargs="+", metavar="DIR|FILE", help="normal images (one is enough)")
    add_max_pixels(group)
    group.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="trained heads, for --method fdsl and both"
    )
    method = f"{DEFAULT}; {WITH_HEADS} where --checkpoint is given"
    add_option(group, options_of(DetectorConfig)["method"], method)
    add_option(group, options_of(FittedConfig)["image_score"])
    add_option(group, options_of(RunConfig)["rotations"])
    group.add_argument(
        "--add-references",
        nargs="+",
        metavar="DIR|FILE",
        help="add normal images to --detector's references; its threshold is estimated anew",
    )
    group.add_argument(
        "--forget", nargs="+", metavar="NAME", help="with --detector: take references out, by name or digest"
    )
    group.add_argument(
        "--detector", type=Path, metavar="FILE", help="use what --save-detector or the page wrote"
    )
    group.add_argument(
        "--min-area",
        type=whole(1),
        default=1,
        metavar="PX",
        help="leave out regions of fewer pixels (default 1: none); the score stays as it is",
    )
    add_detector_options(parser)
    add_runtime_flags(parser, reads_files)


def _rate(text: str) -> float | str:
    """An argparse type: a number between 0 and 1, or none."""
    if text == "none":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LOWEST_RATE <= value < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number between 0 and 1 (from {LOWEST_RATE:g} on), nor none"
        )
    return value


def _threshold(text: str) -> float | str:
    """An argparse type: a finite number, or BATCH."""
    if text == BATCH:
        return text
    try:
        return finite(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor {BATCH}") from None


def contradiction(args: argparse.Namespace, rules: tuple[Rule, ...]) -> str:
    """The sentence that refuses flags which do not go together; "" where they do. ConfigError for a flag that
    has no effect with the method."""
    asked = Asked(vars(args))
    given = [name for name in MAKING_FLAGS if asked[name] is not None]
    moved = [name for name in given if name in ("roi", "ignore") and Path(asked[name]).is_dir()]
    asked.making = tuple(name.replace("_", "-") for name in given if name not in moved)
    problem = first_contradiction(rules, asked)
    if not problem:
        refuse_without_effect({**vars(args), "method": method_of(args)})
    return problem


def method_of(args: argparse.Namespace) -> str:
    """The method that was asked for, else that of the heads that were named, else the default one."""
    return args.method or (DEFAULT if args.checkpoint is None else WITH_HEADS)


def _refuse_without_effect(args: argparse.Namespace, parser: CommandLine) -> None:
    """Ends where a flag has nothing to act on."""
    if args.doctor:
        parser.refuse_all_but(("doctor", *OF_DOCTOR), "--doctor")
    elif args.show:
        parser.refuse_all_but(("show", "detector"), "--show")
    elif not args.input:
        parser.refuse_without_effect("no --input", OF_INPUT)
    elif args.output is None:
        parser.refuse_without_effect("no --output", ("pictures",))
