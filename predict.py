"""Scores your own photographs: from a few references of good parts to scores, decisions, boxes and pictures.

    python predict.py --references good/ --input parts/ --output results/parts python predict.py --references
    good/ --input parts/ --output results/parts --save-detector part.safetensors python predict.py --detector
    part.safetensors --input 'line/**/*.png' --format json | jq .score

Writes scores.csv, scores.jsonl, pictures/, contact_sheet.jpg and report.html to the output folder.
Photographs that cannot be read are skipped and listed at the end. Exit code 0 when done, 2 on an error or
when nothing could be scored, and with --exit-code 1 when a photograph is anomalous.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported: Ctrl-C is answered from the first moment on
    from utils import signals

    signals.answer(at_once=True)

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.images import IMAGE_SUFFIXES
from data.inputs import find_images, list_images
from data.labels import read_labels
from data.photographs import Loaded, read_ahead
from fdsl.api import AnomalyDetector, Prediction
from fdsl.flags.chosen import refuse_windows_without_mode, window_config
from fdsl.flags.predict_flags import parse
from fdsl.report.pictures import write_image
from fdsl.report.prediction_report import (
    draw_prediction,
    picture_name,
    write_contact_sheet,
    write_prediction_report,
)
from fdsl.store.prediction_folder import PredictionFolder, Totals, skipped_summary
from models.backbones.weights import fingerprint
from utils.command import run_command
from utils.config import checkpoint_path
from utils.device import worker_count
from utils.errors import ConfigError, DataError, ModelError
from utils.lock import locked
from utils.log import progress, warn
from utils.signals import command_line, how_to_continue

logger = logging.getLogger("fdsl")
SCORES = {
    "max": "mean over blocks of each one's highest patch, at or above the peak of the map",
    "top1": "mean of the map's highest 1 %",
}
HEAT_MAPS = "one scale for all pictures; where the threshold comes from the references, half-way is what 1 % of good parts reach"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv, __doc__)
    list(
        zip(range(1), find_images(args.input))
    )  # an input that is not there is said before anything is loaded
    if args.output:
        keep_apart(args.output, args.input, args.references or [])
    detector = load_or_make(args)
    if not args.detector:
        remember(detector, args)
    decide(detector, args)
    if args.save_detector:
        detector.save(args.save_detector)
        logger.info("wrote %s; use it with --detector", args.save_detector)
    if args.output is None:
        return inspect(detector, None, args)
    with locked(args.output / ".lock", str(args.output), "name another folder with --output"):
        config = run_config(
            detector,
            pictures=args.pictures,
            save_maps=args.save_maps,
            input=[str(item) for item in args.input],
        )
        return inspect(detector, PredictionFolder(args.output, config, args.resume, args.save_maps), args)


def keep_apart(output: Path, inputs: Sequence[str], references: Sequence[str]) -> None:
    """ConfigError for an output folder among the references, or for photographs where its pictures will lie:
    pictures of a run must never be taken for photographs, nor photographs for pictures."""
    target = output.resolve()
    for given in references:
        if Path(given).is_dir() and target.is_relative_to(Path(given).resolve()):
            raise ConfigError(
                f"--output {output} lies in --references {given}: its pictures would be taken for good parts; name "
                "another folder."
            )
    for flag, paths in (("--input", inputs), ("--references", references)):
        for given in paths:
            if Path(given).resolve().is_relative_to(target / "pictures"):
                raise ConfigError(
                    f"{flag} {given} lies where --output {output} keeps its pictures; name another folder."
                )


def inspect(detector: AnomalyDetector, folder: PredictionFolder | None, args: argparse.Namespace) -> int:
    """Scores everything, writes what was asked for and says what became of it; returns the exit code."""
    rows = score(detector, folder, args)
    try:
        counted = emit(rows, args)
    except BrokenPipeError:  # the reader of --format json has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    totals = counted if folder is None else finish(detector, folder)
    for line in skipped_summary(totals, args.output):
        logger.warning("%s", line)
    if totals.scored == 0:
        raise DataError(
            f"{' '.join(map(str, args.input))}: no photograph could be scored; give image files "
            f"({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    logger.info(
        "%d photograph(s) scored%s%s",
        totals.scored,
        f", {totals.anomalous} anomalous at threshold {detector.threshold.score:.4f}"
        if detector.threshold
        else "",
        f"; open {args.output / 'report.html'}" if args.output else "",
    )
    return 1 if args.exit_code and totals.anomalous else 0


def load_or_make(args: argparse.Namespace) -> AnomalyDetector:
    """The detector of the flags: a saved one, or one that has no references yet; says which method it is."""
    places = {
        "pretrained": args.pretrained,
        "model_config": args.model_config,
        "device": args.device,
        "precision": args.precision,
    }
    if args.detector:
        detector = AnomalyDetector.load(args.detector, **places)
        logger.info(
            "detector %s: method %s, %d reference(s)",
            args.detector,
            detector.config["heads"],
            detector.config["references"],
        )
        return detector
    flags = {
        **places,
        **{name: getattr(args, name) for name in ("model", "layers", "image_size", "align")},
        "image_score": args.image_score or "max",
    }
    checkpoint = args.checkpoint or default_checkpoint(args)
    if checkpoint is None and (args.method in ("fdsl", "both") or args.fd == "none"):
        raise ConfigError(
            f"--method {args.method or 'fdsl'} needs trained heads, and there are none in "
            f"{args.checkpoints / args.model_name}; name them with --checkpoint FILE or train them."
        )
    if checkpoint is None:
        refuse_for_nearest(args)
    windows = window_config(args) if checkpoint or args.winmode else None
    if checkpoint is None:
        logger.info(
            "method nearest: no trained heads %s, distance to the nearest normal patch",
            "asked for" if args.method else f"in {args.checkpoints / args.model_name}",
        )
        detector = AnomalyDetector.from_backbone(windows=windows, **flags)
    else:
        method = args.method or "fdsl"
        logger.info("method %s: heads of %s", method, checkpoint)
        detector = AnomalyDetector.from_checkpoint(
            checkpoint, method=method, windows=windows, use_nam=args.use_nam, fd=args.fd, **flags
        )
    return detector


def refuse_for_nearest(args: argparse.Namespace) -> None:
    """ConfigError for flags that mean nothing without trained heads."""
    if args.use_nam:
        raise ConfigError(
            "--use-nam 1 needs trained heads: method nearest has nothing to aggregate; leave it out."
        )
    refuse_windows_without_mode(args)


def remember(detector: AnomalyDetector, args: argparse.Namespace) -> None:
    """Shows the detector the references of the flags."""
    references = list_images(args.references) if args.references else []
    logger.info("%d reference(s)", len(references))
    detector.remember(references, rotations=args.rotate_references or 1, false_alarm_rate=wished_rate(args))


def default_checkpoint(args: argparse.Namespace) -> Path | None:
    """CHECKPOINTS/MODEL/visa.safetensors or mvtec.safetensors, whichever is there; never looked up for
    nearest."""
    names = () if args.method == "nearest" else ("visa", "mvtec")
    found = (checkpoint_path(args.checkpoints, args.model_name, name) for name in names)
    return next((path for path in found if path.is_file()), None)


def wished_rate(args: argparse.Namespace) -> float | None:
    """The false-alarm rate to estimate a threshold for; None where another threshold, or none, was asked
    for."""
    if args.false_alarm_rate == "none" or args.threshold is not None or args.threshold_from == "labels":
        return None
    return args.false_alarm_rate or 0.01


def decide(detector: AnomalyDetector, args: argparse.Namespace) -> None:
    """Sets the threshold that the flags ask for; a loaded detector keeps its own without any."""
    if args.threshold is not None:
        detector.set_threshold(args.threshold)
    elif args.threshold_from == "labels":
        paths, labels = read_labels(args.labels)
        detector.learn_threshold(progress(paths, len(paths), "labelled photographs"), labels)
    elif args.false_alarm_rate == "none":
        detector.threshold = None
    elif args.detector and args.false_alarm_rate is not None:
        detector.calibrate(args.false_alarm_rate)
    if detector.threshold:
        logger.info("threshold %.6g from %s", detector.threshold.score, detector.threshold.source)
    else:
        logger.info("no threshold: scores only")


def run_config(detector: AnomalyDetector, **more: Any) -> dict[str, Any]:
    """config.json: all that decides what comes out, and what a reader wants to know beside it."""
    state = {name: value for name, value in detector.tensors().items() if not name.startswith("normal.")}
    return {
        **detector.config,
        "detector": fingerprint(state) if state else "",
        "threshold": asdict(detector.threshold) if detector.threshold else None,
        **more,
        "command": command_line(),
    }


def score(
    detector: AnomalyDetector, folder: PredictionFolder | None, args: argparse.Namespace
) -> Iterator[dict]:
    """Scores photograph by photograph and yields each one's row; one that cannot be read is a row with
    `error`."""
    left_out = [args.output] if args.output else []
    unreadable: list[tuple[str, str]] = []
    known = {os.path.realpath(path) for path in list_images(args.references)} if args.references else set()
    total, shown_again = 0, []
    for total, (name, path) in enumerate(find_images(args.input, left_out), start=1):
        if known and os.path.realpath(path) in known:
            shown_again.append(
                f"{name} is one of the references: its score is that of a photograph the detector knows"
            )
    warn(shown_again)
    files = (
        item
        for item in find_images(args.input, left_out, lambda *problem: unreadable.append(problem))
        if folder is None or item[0] not in folder
    )
    if folder is not None and len(folder):
        logger.info("--resume: %d photograph(s) are done already", len(folder))
    loaded = read_ahead(
        files, detector.image_size, worker_count(args.workers), 2 * args.batch_size, args.max_pixels
    )
    done = 0 if folder is None else len(folder)
    if folder is not None:
        how_to_continue("the same command with --resume goes on after the photographs that are done")
    for batch in in_batches(progress(loaded, max(total - done, 0), "photographs"), args.batch_size):
        readable = [item for item in batch if not item.reason]
        found = (
            detector.predict_batch(
                torch.stack([item.tensor for item in readable]),
                [item.photo.size for item in readable],
                [item.name for item in readable],
            )
            if readable
            else []
        )
        unreadable += [(item.name, item.reason) for item in batch if item.reason]
        for name, reason in unreadable:
            if folder is not None:
                folder.skip(name, reason)
            yield {"image": name, "error": reason}
        unreadable.clear()
        for item, prediction in zip(readable, found):
            row = row_of(item.name, prediction)
            if folder is not None:
                if args.pictures == "all" or (
                    args.pictures == "anomalous" and prediction.is_anomalous is not False
                ):
                    row["picture"] = draw(detector, item.name, item.photo, prediction, args.output)
                folder.add(row, prediction.base_map, prediction.window_map)
            yield row
    for name, reason in unreadable:
        if folder is not None:
            folder.skip(name, reason)
        yield {"image": name, "error": reason}


def in_batches(items: Iterable[Loaded], size: int) -> Iterator[list[Loaded]]:
    """`size` items at a time; the last may be shorter."""
    batch: list[Loaded] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def row_of(name: str, found: Prediction) -> dict[str, Any]:
    """A photograph's line of scores.jsonl; boxes in its own pixels."""
    return {
        "image": name,
        "score": found.score,
        "base_score": found.base_score,
        "window_score": found.window_score,
        "threshold": found.threshold,
        "anomalous": found.is_anomalous,
        "boxes": [asdict(box) for box in found.boxes],
        "width": found.size[0],
        "height": found.size[1],
        "grid": len(found.patch_map),
        "picture": None,
    }


def draw(detector: AnomalyDetector, name: str, photo: Image.Image, found: Prediction, output: Path) -> str:
    """Writes a photograph's heat map with boxes; returns its place in the output folder."""
    place = picture_name(name)
    (output / place).parent.mkdir(exist_ok=True)
    write_image(
        output / place,
        draw_prediction(np.asarray(photo), found.anomaly_map, found.boxes, detector.heat_scale),
    )
    return place


def emit(rows: Iterable[dict], args: argparse.Namespace) -> Totals:
    """Goes through the rows, printing them with --format json; counts them."""
    totals = Totals()
    for row in rows:
        totals.skipped += "error" in row
        totals.scored += "error" not in row
        totals.anomalous += bool(row.get("anomalous"))
        if "error" in row and len(totals.first_skipped) < 20:
            totals.first_skipped.append((row["image"], row["error"]))
        if args.format == "json":
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
    return totals


def finish(detector: AnomalyDetector, folder: PredictionFolder) -> Totals:
    """Everything that needs the whole run: tables, maps, contact sheet, report."""
    totals = folder.finish(detector.grid, detector.fuse)
    if totals.scored:
        has_sheet = write_contact_sheet(folder.folder, totals.top)
        write_prediction_report(
            folder.folder, totals, detector.threshold, facts(detector), command_line(), has_sheet
        )
    return totals


def facts(detector: AnomalyDetector) -> list[tuple[str, str]]:
    """What the report says of the detector."""
    config, tower = detector.config, detector.config["backbone"]
    heads = {
        "fdsl": "trained heads",
        "nearest": "nearest normal patch, no training",
        "both": "trained heads and nearest",
    }
    turned = f", {config['rotations']} rotations each" if config["rotations"] > 1 else ""
    windows = (
        "none"
        if config["windows"]["winmode"] == "nan"
        else "{winmode}, {win_size} patches, stride {win_stride}".format(**config["windows"])
    )
    untrained = " (UNTRAINED: random weights)" if tower["pretrained"] == "none" else ""
    return [
        ("Method", f"{config['heads']}: {heads[config['heads']]}"),
        ("References", f"{config['references']}{turned}"),
        ("Backbone", f"{tower['model']}, {tower['image_size']} px{untrained}"),
        ("Local windows", windows),
        ("Image score", f"{config['image_score']}: {SCORES[config['image_score']]}"),
        ("Heat maps", HEAT_MAPS),
        ("Precision", config["machine"]["precision"]),
    ]


if __name__ == "__main__":
    run_command(main, (DataError, ModelError, ConfigError))
