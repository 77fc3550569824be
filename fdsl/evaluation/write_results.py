"""The results of a test run, from its maps: tables, scores, pictures and the report."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.images import image_size, open_image
from data.masks import SaturatingRegion, Saturations, content_doubt, open_mask, rotation_doubt, size_doubt
from data.photographs import mask_to_tensor
from data.records import Record
from fdsl.config.describe import framing
from fdsl.config.run_config import RunConfig
from fdsl.evaluation.category_metrics import Saturation, evaluate_category, threshold_of
from fdsl.evaluation.few_shot_split import FewShotSplit
from fdsl.metrics.overlap import Overlap
from fdsl.report.category_view import CategoryView
from fdsl.report.pictures import write_pictures
from fdsl.report.published import published_row
from fdsl.report.run_report import write_report
from fdsl.report.tables import metrics_table, write_tables
from fdsl.scoring import upsample_maps
from fdsl.store.maps import RunMaps, save_maps
from models.features import ScoreMaps
from models.methods.registry import METHODS
from utils.console import progress, warn
from utils.errors import ConfigError
from utils.files import as_cell, csv_text, read_json, write_json, write_text
from utils.limits import GreyRange
from utils.options import from_stored
from utils.text import printable

logger = logging.getLogger("fdsl")
OVERLAPS = "pixels.json"  # of a run: the distributions of the scores of normal and of defective pixels
VALIDATION_MAPS = "validation.npz"
OWN_SCORES = "Pixel scores of this run"
DISTANCES = "Length of the discrepancy, without heads"


def write_results(folder: Path, config: RunConfig, run: RunMaps, split: FewShotSplit) -> None:
    """Fuses the maps, evaluates each category of `split` and writes tables, scores, pictures and report.

    `config.pictures`: the most strips per category, None: all, 0: neither pictures nor report.
    """
    every, run = run, run.select(split.names)
    fused, score = run.maps.fused(config.detector.windows)
    names = [name for category in split.records for name in split.validation_names(category)]
    validation = every.select(names) if set(names) <= set(every.names) else every.select([])
    if len(validation):
        save_maps(folder / VALIDATION_MAPS, validation)
    save_maps(folder / "maps.npz", run, fused, score)
    views, start = [], 0
    for category, records in split.records.items():
        part = slice(start, start := start + len(records))
        own = [name for name in split.validation_names(category) if name in validation.names]
        normal = validation.select(own).maps.fused(config.detector.windows)[0]
        views.append(evaluate(category, split, fused[part], score[part], config, normal))
    write_text(folder / "scores.csv", csv_text(*score_table(run.maps, score, split, views)))
    overlaps = {view.name: overlap.to_json() for view in views for overlap in view.overlaps.values()}
    write_json(folder / OVERLAPS, {"categories": overlaps})
    categories = {view.name: view.metrics for view in views}
    metrics = write_tables(folder, categories, config)
    logger.info("%s\n\nPer cent. %s", metrics_table(categories), framing(config))
    if config.pictures != 0:
        add_distances(views, folder, config)
        summaries = [
            write_pictures(view, folder / "pictures", config.pictures)
            for view in progress(views, len(views), "pictures")
        ]
        write_report(folder, summaries, config, metrics, published_row(config, list(categories)))


def score_table(
    maps: ScoreMaps, score: np.ndarray, split: FewShotSplit, views: Sequence[CategoryView]
) -> tuple[list[str], Iterable[tuple]]:
    """The columns of scores.csv and a row for each image. `score` (n,), the raw score of both branches, and
    those of each branch have columns where they differ from the image score."""
    records = [record for part in split.records.values() for record in part]
    table: dict[str, list[Any]] = {
        "image": [as_cell(record.image_path) for record in records],
        "category": [view.name for view in views for _ in view.image_paths],
        "defect": [record.defect for record in records],
        "anomalous": [record.anomalous for record in records],
        "image_score": [value for view in views for value in view.scores.tolist()],
    }
    scores = [table["image_score"]]
    for name, values in (
        ("score", score),
        ("base_score", maps.base_score),
        ("window_score", maps.window_score),
    ):
        own = None if values is None else values.tolist()
        if own is not None and own not in scores:
            table[name] = own
            scores.append(own)
    return list(table), zip(*table.values())


@dataclass(frozen=True)
class CategoryFiles:
    """The photographs and masks of one category's test images, read one at a time. `doubtful`: warnings about
    the masks of defects that were read, by the image's index."""

    root: Path
    records: Sequence[Record]
    grey: GreyRange | None = None
    doubtful: dict[int, str] = field(default_factory=dict)

    def mask(self, index: int, side: int | str) -> np.ndarray | None:
        """A test image's mask (H,W) bool at `side`, "full": its own size; None for a defect without one."""
        record = self.records[index]
        if record.anomalous and not record.mask_path:
            return None
        mask = open_mask(self.root / record.mask_path) if record.mask_path else None
        if mask is not None and record.anomalous:
            self._check(index, mask)
        if isinstance(side, int):
            return mask_to_tensor(mask, side)[0].numpy() > 0
        if mask is None:
            return np.zeros(image_size(self.root / record.image_path)[::-1], bool)
        return np.asarray(mask) > 0

    def saturation(self) -> Saturation | None:
        """The regions with their saturation; None without a file of saturations. DataError for a broken
        one."""
        saturations = Saturations.of(self.root, self.records)
        if saturations is None:
            return None

        def regions(index: int, side: int | str) -> list[SaturatingRegion]:
            own_size = saturations.regions(self.root / self.records[index].mask_path)
            if isinstance(side, str):
                return own_size
            masks = (Image.fromarray(region.mask.astype(np.uint8) * np.uint8(255)) for region in own_size)
            resized = (mask_to_tensor(mask, side)[0].numpy() > 0 for mask in masks)
            return [SaturatingRegion(mask, region.share) for mask, region in zip(resized, own_size)]

        return Saturation([record.defect for record in self.records], regions)

    def _check(self, index: int, mask: Image.Image) -> None:
        """Adds a warning about a defect's mask, if there is one."""
        record = self.records[index]
        file, photo = self.root / record.mask_path, self.root / record.image_path
        doubt = size_doubt(mask.size, image_size(photo))
        if doubt := doubt or content_doubt(mask) or rotation_doubt(file, photo):
            self.doubtful[index] = f"{printable(record.mask_path)}: {doubt}"

    def photo(self, record: Record) -> np.ndarray:
        """(H,W,3) uint8 RGB."""
        return np.asarray(open_image(self.root / record.image_path, self.grey))


def evaluate(
    category: str,
    split: FewShotSplit,
    maps: np.ndarray,
    score: np.ndarray,
    config: RunConfig,
    normal: np.ndarray,
) -> CategoryView:
    """One category's metrics, and the data for its pictures; `normal`: the fused maps (v,G,G) of its
    validation images."""
    records, references = split.records[category], split.references[category]
    files = CategoryFiles(split.root, records, split.grey.get(category))
    labels = np.array([record.anomalous for record in records])

    side, threshold = config.metric_size, None
    if len(normal):
        shown = [split.root / name for name in split.validation_names(category)]
        sizes = [side if isinstance(side, int) else image_size(file)[::-1] for file in shown]
        threshold = threshold_of(upsample_maps(one[None], size) for one, size in zip(normal, sizes))
    evaluation = evaluate_category(
        maps, score, labels, files.mask, config.image_score, side, files.saturation(), threshold
    )
    warn(list(files.doubtful.values()))
    return CategoryView(
        name=category,
        image_paths=[record.image_path for record in records],
        defects=[record.defect for record in records],
        labels=labels,
        scores=evaluation.scores,
        maps=maps,
        metrics=evaluation.metrics,
        map_threshold=evaluation.map_threshold,
        score_threshold=evaluation.score_threshold,
        references=[record.image_path for record in references],
        read_photo=lambda index: files.photo(records[index]),
        read_mask=lambda index: files.mask(index, "full"),
        reference_photo=lambda index: files.photo(references[index]),
        overlaps={} if evaluation.overlap is None else {OWN_SCORES: evaluation.overlap},
    )


def add_distances(views: Sequence[CategoryView], folder: Path, config: RunConfig) -> None:
    """Adds to views of trained heads the distribution of the discrepancy's length, from a finished run on the
    same references and windows, if there is one."""
    if not METHODS[config.detector.method].needs_heads:
        return
    for file in sorted(folder.parent.glob(f"*/{OVERLAPS}")):
        if not _is_length_of(file.parent, config):
            continue
        stored = read_json(file)
        categories = stored.get("categories") if isinstance(stored, dict) else None
        for view in views:
            overlap = Overlap.from_json(categories.get(view.name)) if isinstance(categories, dict) else None
            if overlap is not None:
                view.overlaps[f"{DISTANCES}: {file.parent.name}"] = overlap
        return


def _is_length_of(folder: Path, config: RunConfig) -> bool:
    """Whether a folder holds a finished run of the discrepancy's length with the settings of `config`."""
    try:
        other = from_stored(RunConfig, read_json(folder / "config.json"))
    except ConfigError:
        return False
    if not METHODS[other.detector.method].length_of_discrepancy or not (folder / "metrics.json").is_file():
        return False

    def settings(run: RunConfig) -> tuple:
        encoder = run.detector.backbone
        of_encoder = encoder.layers, encoder.image_size, encoder.model
        return run.detector.windows, of_encoder, run.files, run.rotations

    return settings(other) == settings(config)
