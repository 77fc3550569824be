"""The detector that the flags of predict.py and app.py ask for, with its references and its threshold."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any, NoReturn

from data.images import open_image
from data.inputs import find_images
from data.labels import read_labels
from data.live import Source
from fdsl.api import AnomalyDetector
from fdsl.config.contradictions import OF_SAVED, OF_THRESHOLDS, Asked, first_contradiction
from fdsl.config.resolve import OF_DETECTORS, OF_HEADS
from fdsl.flags.groups import take_preset
from fdsl.flags.predict_flags import COMMON, EVERY, contradiction, make_parser, method_of
from fdsl.inspection.reading import Reading
from fdsl.inspection.score_files import Inspection
from fdsl.references.reference_files import reference_files
from fdsl.references.transductive import standing_for_all
from models.methods.registry import METHODS
from utils.command_line import CommandLine
from utils.config import AUTO, BATCH, PLACES
from utils.device import use_threads
from utils.errors import ConfigError, DataError
from utils.live_sources import live_source
from utils.log import progress
from utils.options import without
from utils.text import as_file

logger = logging.getLogger("fdsl")


def detector_of(args: argparse.Namespace, saves: bool = True) -> AnomalyDetector:
    """The detector of predict.py's flags, fitted and with its threshold; saved where wanted (`saves`: by this
    process)."""
    labelled = read_labels(args.labels) if args.labels else None  # refused before anything is loaded
    detector = load_or_make(args)
    fit_from_flags(detector, args)
    set_threshold(detector, args, labelled)
    if args.save_detector and saves:
        detector.save(args.save_detector)
        logger.info("wrote %s; use it with --detector", args.save_detector)
    return detector


def page_detector(args: argparse.Namespace) -> AnomalyDetector:
    """The detector of app.py's flags; ConfigError for references of one that compares what is dropped on the
    page."""
    detector = load_or_make(args)
    if detector.reader.masks is not None:
        raise ConfigError(
            f"{detector.reader.masks} holds masks of files, and the page knows none: give one mask for all "
            "photographs, or draw it there."
        )
    if args.references and detector.method.takes_test_images:
        raise ConfigError(
            "The page compares the photographs that are dropped on it, and with --with-batch the references "
            "are dropped there too: leave --references out."
        )
    if args.references or args.detector:
        fit_from_flags(detector, args)
    return detector


class _Settings(CommandLine):
    """Settings that are read for Python: what a command would end with is raised."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}.")


def detector_from_config(file: str | Path) -> AnomalyDetector:
    """The detector that predict.py makes with `--config FILE`: what makes or loads it, its references and its
    threshold. What the file says of input and output is left aside. Not fitted where it names no
    references, or compares test images with each other: call `fit`. ConfigError for a file that is none,
    and for settings that do not go together; DataError, ModelError as the command."""
    parser = make_parser(_Settings(None, "predict.py", COMMON))
    args = parser.parse_args(["--config", str(as_file("config", file))])
    if problem := contradiction(args, OF_SAVED) or first_contradiction(OF_THRESHOLDS, Asked(vars(args))):
        parser.error(problem)
    if args.threshold == BATCH:
        parser.error("--threshold batch is of input images: call learn_threshold_from_batch with them")
    take_preset(args)
    labelled = read_labels(args.labels) if args.labels else None
    detector = load_or_make(args)
    if args.detector or (args.references and not detector.method.takes_test_images):
        fit_from_flags(detector, args)
    if detector.ready:
        set_threshold(detector, args, labelled)
    return detector


def inspection_of(args: argparse.Namespace, restarted: bool) -> Inspection:
    """What the flags ask to inspect; `restarted`: the command is started again, so its run goes on."""
    live = live_source(args.input)
    every = EVERY if args.every is None else args.every
    return Inspection(
        args.input,
        args.output,
        args.references or (),
        args.pictures,
        args.save_maps,
        args.resume or restarted,
        Reading(args.batch_size, args.workers),
        args.save_masks,
        args.coco,
        None if live is None else Source(live, every),
    )


def load_or_make(args: argparse.Namespace) -> AnomalyDetector:
    """The detector of the flags: a saved one, or one that has no references yet; says which method it is."""
    detector = _load_or_make(args)
    detector.min_area = args.min_area
    return detector


def _load_or_make(args: argparse.Namespace) -> AnomalyDetector:
    use_threads(args.threads)
    places = {name: getattr(args, name) for name in (*PLACES, "device", "precision")}
    if args.detector:
        detector = AnomalyDetector.load(args.detector, **places, roi=args.roi, ignore=args.ignore)
        name, references = detector.config.detector.method, detector.config.references
        logger.info("detector %s: method %s, %d reference(s)", args.detector, name, references)
        return detector
    args.method, checkpoint = method_of(args), args.checkpoint
    flags = {**{name: vars(args).get(name) for name in OF_DETECTORS}, **places, "method": args.method}
    flags["image_score"] = args.image_score or "max"
    if checkpoint is not None:
        logger.info("method %s: heads of %s", args.method, checkpoint)
        return AnomalyDetector.from_checkpoint(checkpoint, **flags)
    logger.info("method %s: %s", args.method, METHODS[args.method].words)
    if args.preset is None:
        logger.info("--preset dinov2-small takes DINOv2's features, published to judge better than CLIP's")
    return AnomalyDetector.from_backbone(**without(flags, OF_HEADS))


def fit_from_flags(detector: AnomalyDetector, args: argparse.Namespace) -> None:
    """Fits a new detector to the references of the flags, and to the test images where it compares these;
    changes those of a saved one. ConfigError where a false-alarm rate is to be estimated from none."""
    if args.detector:
        change_references(detector, args)
        return
    references = reference_files(args.references) if args.references else []
    if not references and args.threshold != BATCH and isinstance(args.false_alarm_rate, float):
        raise ConfigError(
            f"--false-alarm-rate {args.false_alarm_rate:g} is estimated from references, and there are none: "
            "add --threshold batch, or --threshold N."
        )
    logger.info("%d reference(s)", len(references))
    how: dict[str, Any] = {"rotations": args.rotate_references, "false_alarm_rate": target_rate(args)}
    if not detector.method.takes_test_images:
        detector.fit(references, **how)
        return
    detector.fit(references, **how, test_images=readable(args))


def change_references(detector: AnomalyDetector, args: argparse.Namespace) -> None:
    """Takes references out of a saved detector and adds others, as the flags ask; it keeps the rate or the
    threshold that it has, where they ask for no other."""
    asked = (args.false_alarm_rate, args.threshold, args.labels)
    rate = AUTO if asked == (None, None, None) else target_rate(args)
    if args.forget:
        detector.forget(*args.forget, false_alarm_rate=rate)
        logger.info("%d reference(s) are left", detector.config.references)
    if args.add_references:
        detector.add_references(reference_files(args.add_references), false_alarm_rate=rate)
        logger.info("%d reference(s) now", detector.config.references)


def readable(args: argparse.Namespace) -> list[Path]:
    """Those of the test images that stand for all, but for what cannot be read."""
    left_out = [args.output] if args.output else []
    standing = standing_for_all([one.path for one in find_images(args.input, left_out) if one.path])
    chosen = [path for path in standing if _opens(path)]
    logger.info("%d test image(s) are encoded beforehand: most of them must be normal", len(chosen))
    return chosen


def _opens(path: Path) -> bool:
    try:
        open_image(path)
    except DataError:
        return False
    return True


def target_rate(args: argparse.Namespace) -> float | None:
    """The false-alarm rate to estimate a threshold for; None where another threshold, or none, was asked
    for."""
    if args.false_alarm_rate == "none" or args.threshold is not None or args.labels or args.calibration:
        return None
    return args.false_alarm_rate or 0.01


def set_threshold(
    detector: AnomalyDetector, args: argparse.Namespace, labelled: tuple[list[Path], list[bool]] | None
) -> None:
    """Sets the threshold that the flags ask for; a loaded detector keeps its own without any. `labelled`: the
    photographs of --labels, and whether they are anomalous."""
    if labelled is not None:
        paths, labels = labelled
        detector.learn_threshold(progress(paths, len(paths), "labelled photographs"), labels)
    elif args.threshold == BATCH:
        detector.learn_threshold_from_batch(readable(args), args.false_alarm_rate or 0.01)
    elif args.threshold is not None:
        detector.set_threshold(args.threshold)
    elif args.calibration:
        files = reference_files(args.calibration, "--calibration")
        detector.calibrate(args.false_alarm_rate or 0.01, files)
    elif args.false_alarm_rate == "none":
        detector.threshold = None
    elif args.detector and args.false_alarm_rate is not None:
        detector.calibrate(args.false_alarm_rate)
    if detector.threshold:
        logger.info("threshold %.4g from %s", detector.threshold.score, detector.threshold.source)
        if detector.trust:
            logger.info("%s", detector.trust)
    else:
        logger.info("no threshold: scores only")
