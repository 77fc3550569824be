"""What the tests of predict.py have in common."""

import csv

BACKBONE_OPTIONS = {"model": "ViT-tiny-test", "pretrained": "none", "layers": (1, 3), "image_size": 64}
RUNTIME = ["--device", "cpu", "--precision", "fp32", "--workers", "1"]


def rows(file):
    """A table's rows as dictionaries of text."""
    with open(file, newline="", encoding="utf-8-sig") as table:
        return list(csv.DictReader(table))
