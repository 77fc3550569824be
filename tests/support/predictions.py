"""What the tests of predict.py have in common."""

import csv

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
