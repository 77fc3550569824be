"""What the tests of predict.py have in common."""

import csv
from contextlib import closing

from fdsl.store.prediction_folder import PredictionFolder, journal_of
from tests.support.run_config import prediction_config

BACKBONE_OPTIONS = {"model": "ViT-tiny-test", "pretrained": "none", "layers": (1, 3), "image_size": 64}
RUNTIME = ["--device", "cpu", "--precision", "fp32", "--workers", "1"]


def rows(file):
    """A table's rows as dictionaries of text."""
    with open(file, newline="", encoding="utf-8-sig") as table:
        return list(csv.DictReader(table))


def stored_row(image, **facts):
    """A line of scores.jsonl with all that a photograph's row has, and `facts`."""
    row = {"score": 0.5, "base_score": 0.5, "window_score": None, "normal_percentile": 0.5, "threshold": 0.5}
    row |= {"anomalous": True, "reason": None, "boxes": [], "width": 9, "height": 9, "grid": 2}
    row |= {"statistics": [1.0, 2.0, 3.0], "pixel_threshold": None, "regions": [], "picture": None}
    row |= {"mask": None, "file": {"bytes": 1, "modified": 2, "digest": "3"}}
    return {"image": image, **row, **facts}


def finished_run(folder, rows):
    """The totals of a run that left these rows in an output folder."""
    run = PredictionFolder(folder, prediction_config())
    with closing(journal_of(folder, 0, keep_maps=False)) as journal:
        for row in rows:
            journal.add(row, None, None)
    return run.finish(4)
