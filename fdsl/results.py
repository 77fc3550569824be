"""From a test run's maps to everything it leaves: tables, scores, pictures and the report."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from data.images import image_size, mask_to_tensor, open_image, open_mask
from fdsl.evaluation import evaluate_category
from fdsl.paper import row_beside
from fdsl.report.pictures import CategoryView, write_pictures
from fdsl.report.run_report import write_report
from fdsl.report.tables import metrics_table, write_tables
from fdsl.run_config import RunConfig
from fdsl.runs import TestedSet
from fdsl.store.maps import RunMaps, save_maps
from fdsl.words import framing
from utils.files import csv_text, write_text
from utils.log import progress

logger = logging.getLogger("fdsl")
SCORE_COLUMNS = (
    "image",
    "category",
    "defect",
    "anomalous",
    "image_score",
    "score",
    "base_score",
    "window_score",
)


def write_results(folder: Path, config: RunConfig, run: RunMaps, tested: TestedSet, max_pixels: int) -> None:
    """Fuses the maps, evaluates each category of `tested` and writes tables, scores, pictures and report.

    `config.pictures`: at most so many strips a category, None all, 0 neither pictures nor report.
    """
    run = run.select(tested.names)
    fused, score = run.maps.fused(config.detector.windows)
    save_maps(folder / "maps.npz", run, fused, score)
    views, rows, start = [], [], 0
    for category, records in tested.records.items():
        part = slice(start, start := start + len(records))
        view = evaluate(category, tested, fused[part], score[part], config, max_pixels)
        views.append(view)
        window = run.maps.window_score[part] if run.maps.window_score is not None else [None] * len(records)
        rows += [
            (record.image_path, category, record.defect, int(record.anomalous), *values)
            for record, *values in zip(
                records,
                view.scores.tolist(),
                map(float, score[part]),
                map(float, run.maps.base_score[part]),
                [None if value is None else float(value) for value in window],
            )
        ]
    write_text(folder / "scores.csv", csv_text(SCORE_COLUMNS, rows))
    categories = {view.name: view.metrics for view in views}
    metrics = write_tables(folder, categories, config)
    logger.info("%s\n\nPer cent. %s", metrics_table(metrics), framing(config))
    if config.pictures != 0:
        summaries = [
            write_pictures(view, folder / "pictures", config.pictures)
            for view in progress(views, len(views), "pictures")
        ]
        write_report(folder, summaries, config, metrics, row_beside(config, list(categories)))


def evaluate(
    category: str, tested: TestedSet, maps: np.ndarray, score: np.ndarray, config: RunConfig, max_pixels: int
) -> CategoryView:
    """One category's metrics, with what its pictures need."""
    root, records, references = tested.root, tested.records[category], tested.references[category]
    labels = np.array([record.anomalous for record in records])

    def read_mask(index: int, side: int | str) -> np.ndarray | None:
        record = records[index]
        if record.anomalous and not record.mask_path:
            return None
        if side == "full":
            if not record.mask_path:
                return np.zeros(image_size(root / record.image_path, max_pixels=max_pixels)[::-1], bool)
            return np.asarray(open_mask(root / record.mask_path, max_pixels)) > 0
        mask = open_mask(root / record.mask_path, max_pixels) if record.mask_path else None
        return mask_to_tensor(mask, side)[0].numpy() > 0

    found = evaluate_category(maps, score, labels, read_mask, config.image_score, config.metric_size)
    return CategoryView(
        name=category,
        image_paths=[record.image_path for record in records],
        defects=[record.defect for record in records],
        labels=labels,
        scores=found.scores,
        maps=maps,
        metrics=found.metrics,
        map_threshold=found.map_threshold,
        score_threshold=found.score_threshold,
        references=[record.image_path for record in references],
        read_photo=lambda index: np.asarray(open_image(root / records[index].image_path, max_pixels)),
        read_mask=lambda index: read_mask(index, "full"),
        reference_photo=lambda index: np.asarray(open_image(root / references[index].image_path, max_pixels)),
    )
