"""One self-contained HTML page per run: what was run, the numbers, and every test image."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fdsl.config.describe import SEES, TRAINED_ON_TEST_IMAGES, facts_of
from fdsl.config.run_config import RunConfig
from fdsl.metrics.exact import MORE_METRICS
from fdsl.report import charts, drawing
from fdsl.report.category_view import CategoryView
from fdsl.report.pages import url_of, write_page
from fdsl.report.pictures import CONTACT_SHEET
from fdsl.report.published import dataset_title
from fdsl.report.tables import mean_and_spread, per_cent
from utils.options import as_stored

EMBEDDED_BYTES = 6_000_000  # thumbnails of up to this size in all are put into the page itself
PIXEL_METRICS = {
    "auroc_px": "AUROC",
    "f1_px": "F1-max",
    "ap_px": "AP",
    "aupro": "PRO",
    "aupro_05": "PRO to 0.05",
    "segf1": "SegF1",
    "auspro": "sPRO",
    "auspro_05": "sPRO to 0.05",
}  # those of MORE_METRICS where they are defined
IMAGE_METRICS = {"auroc_sp": "AUROC", "f1_sp": "F1-max", "ap_sp": "AP"}
FILTERS = {
    "defect": "defects",
    "normal": "normal images",
    "missed": "missed",
    "false alarm": "false alarms",
    "flipped": "flipped",
}
DASH = "–"
REMARK = "The paper's row is the mean over its seeds on the full dataset."


def write_report(
    folder: Path,
    summaries: Sequence[CategoryView],
    config: RunConfig,
    metrics: Mapping[str, Any],
    paper: Mapping[str, Any] | None = None,
) -> Path:
    """Writes folder/report.html and returns its path.

    `summaries` are what write_pictures returned, `metrics` is metrics.json. `paper` maps a metric's name to
    the paper's (mean, std) in per cent; its key `source` may say what it is.
    """
    pixel = [name for name in PIXEL_METRICS if name not in MORE_METRICS or _defined(name, metrics)]
    return write_page(
        Path(folder) / "report.html",
        "report.html.j2",
        _data(summaries, folder),
        **_about(config, summaries),
        table=_table(summaries, metrics, paper, [*pixel, *IMAGE_METRICS]),
        remark="" if not paper else paper.get("source") or REMARK,
        sees=SEES if paper and config.detector.sees_test_set else "",
        sections=[_section(item, folder) for item in summaries],
        problems=[f"{item.name}: {line}" for item in summaries for line in item.problems],
        metric_names=[*(PIXEL_METRICS[name] for name in pixel), *IMAGE_METRICS.values()],
        pixel_metrics=len(pixel),
        panel_names=drawing.PANEL_NAMES,
        filters=FILTERS,
        find="name or defect",
        share=share,
    )


def _defined(name: str, metrics: Mapping[str, Any]) -> bool:
    """Whether a metric of metrics.json is defined for any category."""
    return metrics.get("mean", {}).get(name) is not None


def _about(config: RunConfig, summaries: Sequence[CategoryView]) -> dict[str, Any]:
    """The run's title, facts and settings, for the template."""
    return {
        "kind": "evaluation report",
        "title": _title(config, [item.name for item in summaries]),
        "facts": _facts(config, summaries),
        "untrained": config.detector.backbone.untrained,
        "trained_on_test_images": TRAINED_ON_TEST_IMAGES if config.trained_on_test_images else "",
        "command": config.command,
        "config": sorted(_settings(as_stored(config))),
    }


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a config.json by dotted name, as texts; a dash for what is not set."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            yield f"{prefix}{name}", DASH if text is None else str(text)


def share(part: int, whole: int) -> str:
    """A share as displayed next to the slider: per cent with one decimal, a dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else DASH


def _title(config: RunConfig, categories: Sequence[str]) -> str:
    folder = config.dataset == "folder"
    name = Path(config.data_path).name if folder else dataset_title(config.dataset, categories)
    return f"{name}, {config.k_shot} {'shot' if config.k_shot == 1 else 'shots'}"


def _facts(config: RunConfig, summaries: Sequence[CategoryView]) -> list[tuple[str, str]]:
    """What the numbers depend on, for the head of the page."""
    images = sum(len(item.labels) for item in summaries)
    defects = sum(int(item.labels.sum()) for item in summaries)
    size = config.metric_size
    return [
        ("Test images", f"{images:,}, {defects:,} defective"),
        ("References per category (k)", str(config.k_shot)),
        ("Seed", str(config.seed)),
        *facts_of(config),
        ("Metric size", size if size == "full" else f"{size} px"),
    ]


def _table(
    summaries: Sequence[CategoryView],
    metrics: Mapping[str, Any],
    paper: Mapping[str, Any] | None,
    names: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """The rows of the summary table, of the metrics of these `names`, as texts, for each part of an HTML
    table."""

    def row(kind: str, name: str, images: int, values: Mapping[str, float | None]) -> dict[str, Any]:
        cells = [per_cent(values.get(key), DASH) for key in names]
        return {"kind": kind, "name": name, "images": f"{images:,}", "values": cells}

    body = [row("", item.name, len(item.labels), item.metrics) for item in summaries]
    total = sum(len(item.labels) for item in summaries)
    foot = [row("mean", f"Mean of {len(summaries)}", total, metrics.get("mean", {}))]
    if paper:
        cells = [mean_and_spread(paper.get(key), DASH) for key in names]
        foot.append({"kind": "paper", "name": "Paper", "images": "", "values": cells})
    return {"tbody": body, "tfoot": foot}


def _section(item: CategoryView, folder: Path) -> dict[str, Any]:
    """What the template shows of a category besides its images."""
    scores = item.scores, item.labels, item.score_threshold
    plots = [charts.histogram_svg(*scores), *(charts.curve_svg(kind, *scores) for kind in ("roc", "pr"))]
    overlaps = [
        {"title": title, "plot": Markup(charts.overlap_svg(overlap)), "share": per_cent(overlap.share, DASH)}
        for title, overlap in item.overlaps.items()
    ]
    return {
        "overlaps": overlaps,
        "name": item.name,
        "auroc": per_cent(item.metrics.get("auroc_sp"), DASH),
        "ap": per_cent(item.metrics.get("ap_sp"), DASH),
        "plots": [Markup(plot) for plot in plots],
        "range": charts.score_range(item.scores, item.score_threshold),
        "digits": item.digits,
        "threshold": item.score_threshold,
        "point": charts.operating_point(*scores),
        "map_threshold": item.map_threshold,
        "scale": item.scale,
        "references": item.references,
        "sheet": url_of(item.folder / CONTACT_SHEET, folder),
    }


def _data(summaries: Sequence[CategoryView], folder: Path) -> dict[str, Any]:
    """What the page's script works with: scores to the last digit, names, and where the pictures are."""
    thumbnails = [item.thumbnail(file) for item in summaries for file in [*item.files, *item.reference_files]]
    embed = sum(path.stat().st_size for path in thumbnails if path.exists()) <= EMBEDDED_BYTES
    return {
        "categories": [_images(item, folder, embed) for item in summaries],
        "panels": drawing.PANEL_NAMES,
        "mode": drawing.PANEL_NAMES.index("heat map"),
    }


def _images(item: CategoryView, folder: Path, embed: bool) -> dict[str, Any]:
    """A category's part of `_data`; `embed` puts its thumbnails into the page."""

    def thumbnail(file: str) -> str:
        path = item.thumbnail(file)
        if embed and path.exists():
            return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()
        return url_of(path, folder)

    return {
        "name": item.name,
        "images": item.image_paths,
        "defects": item.defects,
        "labels": [int(label) for label in item.labels],
        "scores": item.scores.tolist(),
        "threshold": item.score_threshold,
        "digits": item.digits,
        "pictures": [
            url_of(item.folder / f"{file}.jpg", folder) if has else None
            for file, has in zip(item.files, item.has_strip)
        ],
        "sizes": [list(size) for size in item.panel_sizes],
        "thumbnails": [thumbnail(file) for file in item.files],
        "references": [thumbnail(file) for file in item.reference_files],
    }
