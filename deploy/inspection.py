"""Inspects photographs that are listed before it begins, and writes what predict.py would."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from data.images import computed_ahead, open_image
from data.inputs import Listed, find_images
from deploy.detector_flags import facts_of
from deploy.graph import Graph
from deploy.pillow_pictures import add_picture
from deploy.results import Folder
from utils.console import put_json, warn
from utils.errors import DataError
from utils.image_statistics import other_shape
from utils.score_rows import row_of, skipped_summary
from utils.text import printable

logger = logging.getLogger("fdsl")
AHEAD = 2  # photographs that are read before they are asked for


def inspect(graph: Graph, inputs: Sequence[str], output: Path | None, pictures: str, as_json: bool) -> int:
    """Scores all photographs, writes to `output` (None: nowhere), prints rows where `as_json`, and logs the
    counts; returns how many are anomalous. `pictures`: see `add_picture`. DataError where nothing could be
    scored."""
    folder = None if output is None else Folder(output, facts_of(graph))
    scored, anomalous, skipped = 0, 0, []
    for row in rows_of(graph, inputs, folder, pictures):
        if folder is not None:
            folder.add(row)
        if "error" in row:
            skipped.append((row["image"], row["error"]))
        else:
            scored, anomalous = scored + 1, anomalous + bool(row["anomalous"])
        if as_json and not put_json(row):
            as_json = False
            if folder is None:
                break
    table = folder.folder / "skipped.csv" if folder is not None and folder.finish() else None
    for line in skipped_summary(len(skipped), skipped, table):
        logger.warning("%s", line)
    if not scored:
        raise DataError(f"{printable(' '.join(inputs))}: no photograph could be scored; give image files")
    limit = graph.threshold
    decided = f", {anomalous} anomalous at threshold {limit:.4g}" if limit is not None else ""
    logger.info("%d photograph(s) scored%s", scored, decided)
    return anomalous


def rows_of(
    graph: Graph, inputs: Sequence[str], folder: Folder | None, pictures: str
) -> Iterator[dict[str, Any]]:
    """Each photograph's row; one that cannot be read is {"image", "error"}."""

    def read(item: Listed) -> tuple[str, Image.Image | None, str]:
        if item.path is None:
            return item.name, None, item.reason
        try:
            return item.name, open_image(item.path, graph.grey), ""
        except DataError as error:
            return item.name, None, str(error).removeprefix(f"{printable(item.path)}: ")

    warned = False
    listed = find_images(inputs, [] if folder is None else [folder.folder])
    for name, photo, reason in computed_ahead(read, listed, threads=1, ahead=AHEAD):
        if photo is None:
            yield {"image": name, "error": reason}
            continue
        if not warned and (sentence := other_shape(photo.size, graph.reference_sizes)):
            warned = True
            warn([f"{name}: {sentence} (and perhaps others)"])
        result = graph.predict(photo, name)
        row = row_of(name, result)
        if folder is not None:
            add_picture(row, folder.partial, graph, photo, result, pictures)
        yield row
