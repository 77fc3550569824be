"""The flags that make or load a detector and set its threshold, for predict.py and app.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fdsl.config.contradictions import OF_DETECTORS, Rule, broken
from fdsl.config.presets import preset_option
from fdsl.config.resolve import given_settings
from fdsl.config.run_config import LOWEST_RATE, DetectorConfig, FittedConfig, RunConfig
from fdsl.flags.groups import add_detector_options, add_option, add_options
from models.methods.registry import DEFAULT, METHODS, WITH_HEADS
from utils.command_line import finite, or_word, real
from utils.config import BATCH, RuntimeOptions, at_least_one, max_pixels
from utils.options import CommandOptions, option, options_of

USUAL_RATE = 0.01  # target false-positive rate
# What a saved detector holds: these flags make one, and do not change it afterwards.
MAKING_FLAGS = (
    "preset",
    *(name for name, one in OF_DETECTORS.items() if not (one.place or one.research)),
    *("references", "checkpoint", "method", "image_score", "rotate_references"),
)


@dataclass(frozen=True, kw_only=True)
class ThresholdOptions(CommandOptions):
    """How the threshold is chosen."""

    group: ClassVar[str] = f"threshold (by default a target false-positive rate of {USUAL_RATE})"

    false_alarm_rate: float | str | None = option(
        None,
        reads=or_word("none", real(LOWEST_RATE, 1 - LOWEST_RATE)),
        metavar="0..1|none",
        help="target false-positive rate; how often a normal image may be called anomalous; from "
        "--calibration, or else estimated from the references alone; none: no threshold",
    )
    calibration: Sequence[str] = option(
        (),
        metavar="DIR|FILE",
        help="more normal images, for a reliable threshold; it is their conformal quantile: "
        "at least 99 for a rate of 0.01, 19 for 0.05",
    )
    threshold: float | str | None = option(
        None,
        reads=or_word(BATCH, finite),
        metavar="N|batch",
        help="call a photograph anomalous from this score on; batch: from the bulk of the input images "
        "themselves, most of which must be normal",
    )
    labels: Path | None = option(
        None,
        reads=Path,
        metavar="DIR|CSV",
        help="labelled photographs, for the threshold with the best F1; a folder with good/ and defect "
        "folders, or a file with a header image,label and paths relative to it, whose labels are good (ok, "
        "pass, 0) or anomalous (nok, fail, defect, 1); another word is refused",
    )

    @property
    def rate(self) -> float:
        return self.false_alarm_rate if isinstance(self.false_alarm_rate, float) else USUAL_RATE

    @property
    def rate_of_references(self) -> float | None:
        """The target rate to estimate a threshold for from references; None where another threshold, or none,
        was asked for."""
        others = self.false_alarm_rate == "none", self.threshold is not None, self.labels, self.calibration
        return None if any(others) else self.rate


@dataclass(frozen=True, kw_only=True)
class DetectorFlags(RuntimeOptions, ThresholdOptions):
    """What makes or loads a detector; `given`: its options."""

    group: ClassVar[str] = "detector"

    preset: str | None = preset_option()
    references: Sequence[str] = option((), metavar="DIR|FILE", help="normal images (one is enough)")
    max_pixels: int = max_pixels()
    checkpoint: Path | None = option(
        None, reads=Path, metavar="FILE", help="trained heads, for --method fdsl and both"
    )
    add_references: Sequence[str] = option(
        (),
        metavar="DIR|FILE",
        help="add normal images to --detector's references; its threshold is estimated anew",
    )
    forget: Sequence[str] = option(
        (), metavar="NAME", help="with --detector: take references out, by name or digest"
    )
    detector: Path | None = option(
        None, reads=Path, metavar="FILE", help="use what --save-detector or the page wrote"
    )
    min_area: int = at_least_one(
        1,
        metavar="PX",
        help="leave out regions of fewer pixels (default $default: none); the score stays as it is",
    )

    @property
    def method(self) -> str:
        """The method that was asked for, else that of the heads that were named, else the default one."""
        return self.given.get("method") or (DEFAULT if self.checkpoint is None else WITH_HEADS)

    @property
    def lacks_heads(self) -> bool:
        """Whether the method needs trained heads, and none are named."""
        return METHODS[self.method].needs_heads and not (self.checkpoint or self.detector)

    @property
    def changes(self) -> bool:
        """Whether a saved detector gets or loses references."""
        return bool(self.add_references or self.forget)

    @property
    def making(self) -> list[str]:
        """The given flags that make a detector; folders of masks may have moved since."""
        values = {**vars(self), **self.given}
        given = [name for name in MAKING_FLAGS if values.get(name) not in (None, ())]
        moved = [name for name in given if name in ("roi", "ignore") and Path(values[name]).is_dir()]
        return [name.replace("_", "-") for name in given if name not in moved]

    def contradiction(self, *rules: Rule) -> str:
        """The sentence that refuses flags which do not go together; "" where they do. ConfigError for a flag
        that has no effect with the method."""
        if not (problem := broken(rules, self)):
            given = {**self.given, "checkpoint": self.checkpoint, "method": self.method}
            given_settings(given).refuse_without_effect()
        return problem


def add_detector_flags(parser: argparse.ArgumentParser) -> None:
    """What makes or loads a detector."""
    add_options(parser, DetectorFlags)
    method = f"{DEFAULT}; {WITH_HEADS} where --checkpoint is given"
    title = DetectorFlags.group
    add_option(parser, title, options_of(DetectorConfig)["method"], default=method)
    add_option(parser, title, options_of(FittedConfig)["image_score"])
    add_option(parser, title, options_of(RunConfig)["rotations"])
    add_detector_options(parser)
