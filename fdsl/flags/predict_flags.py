"""predict.py's flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from fdsl.config.contradictions import OF_PREDICT, OF_SAVED, OF_THRESHOLDS
from fdsl.flags.detector_options import DetectorFlags, ThresholdOptions, add_detector_flags
from fdsl.flags.groups import add_options, read, take_preset
from models.methods.registry import METHODS
from utils.command_line import CommandLine
from utils.config import BATCH, BackboneConfig, RuntimeOptions, at_least_one
from utils.options import CommandOptions, option, options_of
from utils.sources import live_source
from utils.text import printable, without_password

EVERY = 1.0  # seconds between two frames of a camera
COMMON = (  # what --help shows
    *("references", "input", "output", "calibration", "false-alarm-rate", "preset", "save-detector"),
    *("detector", "add-references", "format", "device", "doctor"),
)


@dataclass(frozen=True, kw_only=True)
class InputOptions(CommandOptions):
    """What is looked at."""

    group: ClassVar[str] = "input and output"

    input: Sequence[str] = option(
        (),
        metavar="FILE|DIR|GLOB|TAR|@LIST",
        help="photographs to score; folders are searched to their bottom; of a .tar its members; @LIST: a "
        "file with a path on each line; or one camera, stream or clip: /dev/video0 (or 0), rtsp://..., "
        "clip.mp4",
    )
    every: float | None = option(
        None,
        reads=float,
        span=(0, 86400),
        metavar="SECONDS",
        help="of a camera, a stream or a clip: seconds from one scored frame to the next "
        f"(default {EVERY:g}; 0: as many as it can, of a clip all)",
    )
    show: bool = option(False, help="print what --detector holds, with its references, and end")
    doctor: bool = option(
        False,
        help="check this machine; packages, GPU, precision, weights and a timed pass, and how to get what is "
        "missing",
    )
    output: Path | None = option(
        None, reads=Path, metavar="DIR", help="folder of the results (needed unless --format json)"
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions(CommandOptions):
    """What is written of it."""

    group: ClassVar[str] = "what comes out"

    format: str = option(
        "text",
        choices=("text", "json"),
        help="json: one JSON object per line; on standard output, as it goes",
    )
    save_detector: Path | None = option(
        None, reads=Path, metavar="FILE", help="write everything that later runs need"
    )
    exit_code: bool = option(False, help="exit with 1 when a photograph is anomalous")
    resume: bool = option(False, help="go on where a run with the same settings stopped")
    pictures: str = option(
        "all",
        choices=("all", "anomalous", "none"),
        help="photographs of which a picture beside its heat map is written, with contours (default "
        "$default)",
    )
    save_masks: bool = option(False, help="write a PNG mask of each photograph, at its own size")
    coco: Path | None = option(
        None, reads=Path, metavar="FILE", help="write all regions as COCO JSON, polygons with scores"
    )
    save_maps: bool = option(False, help="write maps.npz")
    batch_size: int = at_least_one(4, help="photographs scored at once (default $default)")


OF_DOCTOR = {
    "doctor",
    "preset",
    "device",
    "precision",
    *(one.flag[2:] for one in options_of(BackboneConfig).values()),
}
# What only photographs that are inspected have a use for.
OF_INPUT = {one.flag[2:] for one in options_of(OutputOptions).values()} - {"save-detector"}
OF_INPUT |= {"output", "workers", "min-area"}


@dataclass(frozen=True, kw_only=True)
class PredictFlags(InputOptions, DetectorFlags, OutputOptions):
    """predict.py's flags, and what the rules of fdsl/config/contradictions.py ask of them."""

    @property
    def inspects(self) -> bool:
        """Whether images are to be scored: nothing else was asked for."""
        fitted = self.references and not self.whole_batch
        makes = fitted or self.changes or self.detector and self.calibration
        only_saves = self.save_detector and makes and not self.input
        return not (self.doctor or self.show or only_saves)

    @property
    def writes(self) -> bool:
        """Whether a flag is given that needs an output folder."""
        return bool(self.save_maps or self.save_masks or self.coco or self.resume)

    @property
    def live(self) -> str:
        """The camera, stream or clip to be scored, for a sentence; "" where there is none."""
        return printable(without_password(live_source(self.input) or ""))

    @property
    def whole_batch(self) -> str:
        """The flag that compares all test images, all of which must exist for that; "" for none."""
        if self.threshold == BATCH:
            return f"--threshold {BATCH}"
        if self.given.get("with_batch"):
            return "--with-batch"
        return f"--method {self.method}" if METHODS[self.method].transductive else ""

    @property
    def has_normal_images(self) -> bool:
        """Whether there are references, or nothing needs them."""
        alone = METHODS[self.method].added_by or self.checkpoint  # heads of --fd none need no references
        return bool(self.detector or self.references or alone)

    @property
    def thresholds(self) -> list[str]:
        """The given flags each of which sets the threshold."""
        given = {
            "--calibration": self.calibration,
            "--false-alarm-rate": self.false_alarm_rate is not None
            and not self.calibration
            and self.threshold != BATCH,
            "--threshold": self.threshold is not None,
            "--labels": self.labels,
        }
        return [flag for flag, is_given in given.items() if is_given]


def parse(argv: list[str] | None, description: str | None) -> PredictFlags:
    """Reads and checks the command line."""
    parser = make_parser(CommandLine(description, common=COMMON))
    args = parser.parse_args(argv)
    flags = read(PredictFlags, args)
    if problem := flags.contradiction(*OF_PREDICT):
        parser.error(problem)
    _refuse_without_effect(flags, parser)
    parser.save_settings(args)
    return replace(flags, given=take_preset(flags.preset, flags.given))


def parse_detector(parser: CommandLine, argv: list[str]) -> PredictFlags:
    """The flags that make or load a detector, without the checks of input and output."""
    flags = read(PredictFlags, make_parser(parser).parse_args(argv))
    if problem := flags.contradiction(*OF_SAVED, *OF_THRESHOLDS):
        parser.error(problem)
    if flags.threshold == BATCH:
        parser.error("--threshold batch is of input images: call learn_threshold_from_batch with them")
    return replace(flags, given=take_preset(flags.preset, flags.given))


def make_parser(parser: CommandLine) -> CommandLine:
    """The parser, with predict.py's flags."""
    add_options(parser, InputOptions)
    add_detector_flags(parser)
    add_options(parser, RuntimeOptions, ThresholdOptions, OutputOptions)
    return parser


def _refuse_without_effect(flags: PredictFlags, parser: CommandLine) -> None:
    """Ends where a flag has nothing to act on."""
    if flags.doctor:
        parser.refuse_all_but(OF_DOCTOR, "--doctor")
    elif flags.show:
        parser.refuse_all_but(("show", "detector"), "--show")
    elif not flags.input:
        parser.refuse_without_effect("no --input", OF_INPUT)
    elif flags.output is None:
        parser.refuse_without_effect("no --output", ("pictures",))
