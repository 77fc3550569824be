"""The detector that the flags of predict.py and app.py ask for, with its references and its threshold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from data.images import open_image
from data.inputs import find_images
from data.labels import read_labels
from data.live import Source
from fdsl.api import AnomalyDetector
from fdsl.config.contradictions import OF_DETECTORS, OF_HEADS
from fdsl.flags.detector_options import DetectorFlags
from fdsl.flags.page_flags import PageFlags
from fdsl.flags.predict_flags import COMMON, EVERY, PredictFlags, parse_detector
from fdsl.inspection.score_files import Inspection
from fdsl.references.reference_files import reference_files
from fdsl.references.transductive import sample_of
from models.methods.registry import METHODS
from utils.command_line import CommandLine
from utils.config import AUTO, BATCH
from utils.console import progress
from utils.device import use_threads
from utils.errors import ConfigError, DataError
from utils.options import without
from utils.sources import live_source
from utils.text import as_file

logger = logging.getLogger("fdsl")


def detector_of(flags: PredictFlags, saves: bool = True) -> AnomalyDetector:
    """The detector of predict.py's flags, fitted and with its threshold; saved where wanted (`saves`: by this
    process)."""
    labelled = read_labels(flags.labels) if flags.labels else None  # refused before anything is loaded
    detector = load_or_make(flags)
    fit_from_flags(detector, flags, lambda: readable(flags))
    set_threshold(detector, flags, labelled)
    if flags.save_detector and saves:
        detector.save(flags.save_detector)
        logger.info("wrote %s; use it with --detector", flags.save_detector)
    return detector


def page_detector(flags: PageFlags) -> AnomalyDetector:
    """The detector of app.py's flags; ConfigError for references of one that compares what is dropped on the
    page."""
    detector = load_or_make(flags)
    if detector.reader.masks is not None:
        raise ConfigError(
            f"{detector.reader.masks} holds masks of files, and photographs on the page have no such names: "
            "give one mask for all photographs, or draw it there."
        )
    if flags.references and detector.takes_test_images:
        raise ConfigError(
            "The page compares the photographs that are dropped on it, and with --with-batch the references "
            "are dropped there too: leave --references out."
        )
    if flags.references or flags.detector:
        fit_from_flags(detector, flags)
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
    parser = _Settings(None, "predict.py", COMMON)
    flags = parse_detector(parser, ["--config", str(as_file("config", file))])
    labelled = read_labels(flags.labels) if flags.labels else None
    detector = load_or_make(flags)
    if flags.detector or (flags.references and not detector.takes_test_images):
        fit_from_flags(detector, flags)
    if detector.ready:
        set_threshold(detector, flags, labelled)
    return detector


def inspection_of(flags: PredictFlags, restarted: bool) -> Inspection:
    """What the flags ask to inspect; `restarted`: the command is started again, so its run goes on."""
    live = live_source(flags.input)
    every = EVERY if flags.every is None else flags.every
    return Inspection(
        flags.input,
        flags.output,
        flags.references,
        flags.pictures,
        flags.save_maps,
        flags.resume or restarted,
        flags.save_masks,
        flags.coco,
        None if live is None else Source(live, every),
        flags.batch_size,
        flags.workers,
    )


def load_or_make(flags: DetectorFlags) -> AnomalyDetector:
    """The detector of the flags: a saved one, or one that has no references yet; says which method it is."""
    use_threads(flags.threads)
    given = {name: value for name, value in flags.given.items() if name in OF_DETECTORS}
    machine: dict[str, Any] = {"device": flags.device, "precision": flags.precision}
    image_score = flags.given.get("image_score", "max")
    settings = {**given, **machine, "method": flags.method, "image_score": image_score}
    if flags.detector:
        moved: dict[str, Any] = {
            name: given.get(name) for name in ("pretrained", "model_config", "roi", "ignore")
        }
        detector = AnomalyDetector.load(flags.detector, **moved, **machine)
        name, references = detector.config.detector.method, detector.config.references
        logger.info("detector %s: method %s, %d reference(s)", flags.detector, name, references)
    elif flags.checkpoint is not None:
        logger.info("method %s: heads of %s", flags.method, flags.checkpoint)
        detector = AnomalyDetector.from_checkpoint(flags.checkpoint, **settings)
    else:
        logger.info("method %s: %s", flags.method, METHODS[flags.method].words)
        if flags.preset is None:
            logger.info(
                "--preset dinov2-small takes DINOv2's features, published to judge better than CLIP's"
            )
        detector = AnomalyDetector.from_backbone(**without(settings, OF_HEADS))
    detector.min_area = flags.min_area
    return detector


def fit_from_flags(
    detector: AnomalyDetector, flags: DetectorFlags, test_images: Callable[[], list[Path]] = list
) -> None:
    """Fits a new detector to the references of the flags, and to the test images where it compares these;
    changes those of a saved one. ConfigError where a false-alarm rate is to be estimated from none."""
    if flags.detector:
        change_references(detector, flags)
        return
    references = reference_files(flags.references) if flags.references else []
    if not references and flags.threshold != BATCH and isinstance(flags.false_alarm_rate, float):
        raise ConfigError(
            f"--false-alarm-rate {flags.rate:g} is estimated from references, and there are none: add "
            "--threshold batch, or --threshold N."
        )
    logger.info("%d reference(s)", len(references))
    rotations = flags.given.get("rotate_references")
    how: dict[str, Any] = {"rotations": rotations, "false_alarm_rate": flags.rate_of_references}
    if not detector.takes_test_images:
        detector.fit(references, **how)
        return
    detector.fit(references, **how, test_images=test_images())


def change_references(detector: AnomalyDetector, flags: DetectorFlags) -> None:
    """Takes references out of a saved detector and adds others, as the flags ask; it keeps the rate or the
    threshold that it has, where they ask for no other."""
    asked = (flags.false_alarm_rate, flags.threshold, flags.labels)
    rate = AUTO if asked == (None, None, None) else flags.rate_of_references
    if flags.forget:
        detector.forget(*flags.forget, false_alarm_rate=rate)
        logger.info("%d reference(s) are left", detector.config.references)
    if flags.add_references:
        detector.add_references(reference_files(flags.add_references), false_alarm_rate=rate)
        logger.info("%d reference(s) now", detector.config.references)


def readable(flags: PredictFlags) -> list[Path]:
    """Those of the test images that stand for all, but for what cannot be read."""
    left_out = [flags.output] if flags.output else []
    sample = sample_of([one.path for one in find_images(flags.input, left_out) if one.path])
    chosen = [path for path in sample if _opens(path)]
    logger.info("%d test image(s) are encoded beforehand: most of them must be normal", len(chosen))
    return chosen


def _opens(path: Path) -> bool:
    try:
        open_image(path)
    except DataError:
        return False
    return True


def set_threshold(
    detector: AnomalyDetector, flags: PredictFlags, labelled: tuple[list[Path], list[bool]] | None
) -> None:
    """Sets the threshold that the flags ask for; a loaded detector keeps its own without any. `labelled`: the
    photographs of --labels, and whether they are anomalous."""
    if labelled is not None:
        paths, labels = labelled
        detector.learn_threshold(progress(paths, len(paths), "labelled photographs"), labels)
    elif flags.threshold == BATCH:
        detector.learn_threshold_from_batch(readable(flags), flags.rate)
    elif isinstance(flags.threshold, float):
        detector.set_threshold(flags.threshold)
    elif flags.calibration:
        files = reference_files(flags.calibration, "--calibration")
        detector.calibrate(flags.rate, files)
    elif flags.false_alarm_rate == "none":
        detector.threshold = None
    elif flags.detector and flags.false_alarm_rate is not None:
        detector.calibrate(flags.rate)
    if detector.threshold:
        logger.info("threshold %.4g from %s", detector.threshold.score, detector.threshold.source)
        if detector.decision.trust:
            logger.info("%s", detector.decision.trust)
    else:
        logger.info("no threshold: scores only")
