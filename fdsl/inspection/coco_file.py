"""All regions of a run as a COCO file (cocodataset.org, "Data format", object detection), as labelling tools
import it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.files import whole_file

CATEGORY = {"id": 1, "name": "defect", "supercategory": "anomaly"}


def write_coco(file: Path, rows: Path) -> None:
    """Writes the regions of scores.jsonl as annotations with polygons and scores; every photograph is an
    image, also where it has none.

    A polygon is a region's outer border: COCO's polygons have no holes. An annotation's `score` is the
    region's highest map value, an image's `score` its image score.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with open(rows, encoding="utf-8") as lines:
        for image, row in enumerate(map(json.loads, lines), start=1):
            facts = {name: row[name] for name in ("width", "height", "score", "anomalous")}
            images.append({"id": image, "file_name": row["image"], **facts})
            annotations += [
                _annotation(region, image, number)
                for number, region in enumerate(row["regions"], start=len(annotations) + 1)
            ]
    content = {
        "info": {"description": "Anomalous regions found by FDSL", "version": "1.0"},
        "licenses": [],
        "categories": [CATEGORY],
        "images": images,
        "annotations": annotations,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as out:
        json.dump(content, out, allow_nan=False)


def _annotation(region: dict[str, Any], image: int, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": CATEGORY["id"],
        "bbox": [region[name] for name in ("x", "y", "width", "height")],
        "area": region["area"],
        "segmentation": [[place for point in region["outline"] for place in point]],
        "iscrowd": 0,
        "score": region["peak"],
    }
