"""Histograms of scores, ROC and precision-recall curve as SVG: inline in the reports, and as a file.

The drawing area and the x range of the histogram are returned with it, so that the report can move the
threshold line.
"""

from __future__ import annotations

import math
from html import escape

import numpy as np

from fdsl.metrics.overlap import Overlap

BINS = 44
MOST_POINTS = 240  # of a curve, evenly thinned
DECADES = 4  # of the logarithmic axis of pixels
TICKS = (0, 0.2, 0.4, 0.6, 0.8, 1)  # of the curves' axes
HISTOGRAM_SIZE = (560, 190)
CURVE_SIZE = (250, 230)
LEFT, RIGHT, TOP, BOTTOM = 38, 10, 14, 30  # margins round the drawing area of every chart

STYLE = """
.chart { font: 11px system-ui, sans-serif; }
.chart text { fill: var(--muted); font-variant-numeric: tabular-nums; } .chart .end { text-anchor: end; }
.chart .middle { text-anchor: middle; } .chart .axis { stroke: var(--line); fill: none; }
.chart .good { fill: var(--good-fill); } .chart .defect { fill: var(--defect-fill); }
.chart .score { fill: var(--soft); } .chart .grid { stroke: var(--line); opacity: .6; }
.chart .curve { stroke: var(--ink); stroke-width: 1.6; fill: none; stroke-linejoin: round; }
.chart .area { opacity: .5; }
.chart .chance { stroke: var(--line); stroke-dasharray: 3 4; }
.chart .alarm { fill: var(--defect); opacity: .07; }
.chart .threshold { stroke: var(--ink); stroke-width: 1.5; } .chart .point { fill: var(--defect); }
.chart .point { stroke: var(--paper); stroke-width: 2; }
"""
FILE_STYLE = """
svg { --paper: #fff; --ink: #22211f; --muted: #6a6761; --line: #d9d5cd;
  --good-fill: #8cc3cb; --defect: #bb3f22; --defect-fill: #a8321a; }
.title { font: 600 15px system-ui, sans-serif; fill: var(--ink); }
"""


def score_range(scores: np.ndarray, threshold: float | None) -> tuple[float, float]:
    """The x range of the histogram: all finite scores and the threshold, with 2 % of room on both sides."""
    values = scores[np.isfinite(scores)]
    if threshold is not None and np.isfinite(threshold):
        values = np.append(values, threshold)
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = 0.02 * (high - low) or 0.01
    return (low - room if low < 0 else max(0.0, low - room)), high + room


def bin_edges(low: float, high: float, bins: int, threshold: float | None) -> np.ndarray:
    """Edges of bins of equal width from `low` to `high`; a threshold is one of them, so that no bin lies on
    both of its sides."""
    if threshold is None or not low <= threshold <= high:
        return np.linspace(low, high, bins + 1)
    width = (high - low) / bins
    steps = np.arange(-math.ceil((threshold - low) / width), math.ceil((high - threshold) / width) + 1)
    return threshold + steps * width


def _x(fraction: float, size: tuple[int, int]) -> float:
    return LEFT + fraction * (size[0] - LEFT - RIGHT)


def _y(fraction: float, size: tuple[int, int]) -> float:
    return size[1] - BOTTOM - fraction * (size[1] - TOP - BOTTOM)


def _svg(size: tuple[int, int], label: str, body: list[str], extra: str = "") -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        f'aria-label="{escape(label)}" {extra}>{"".join(body)}</svg>'
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def histogram_svg(scores: np.ndarray, labels: np.ndarray, threshold: float | None, extra: str = "") -> str:
    """Good scores as bars above the axis, defects below it; the threshold as a line, what it calls a defect
    shaded."""
    size, (low, high) = HISTOGRAM_SIZE, score_range(scores, threshold)
    finite = np.isfinite(scores)
    edges = bin_edges(low, high, BINS, threshold)
    counts = [np.histogram(scores[finite & (labels == kind)], edges)[0] for kind in (False, True)]
    most = [max(1, int(part.max())) for part in counts]
    room = size[1] - TOP - BOTTOM
    middle = TOP + room * most[0] / sum(most)
    body = [
        *_bars(
            counts, [_x(min(1, max(0, (edge - low) / (high - low))), size) for edge in edges], middle, most
        ),
        *_histogram_axes(low, high, middle, most),
    ]
    alarm, line = _threshold_marks(threshold, low, high)
    body = [alarm, *body, *line]
    good, defects = int((~labels).sum()), int(labels.sum())
    label = f"Histogram of image scores: {good} good above, {defects} defects below the axis"
    return _svg(size, label, body, extra)


def _bars(counts: list[np.ndarray], places: list[float], middle: float, most: list[int]) -> list[str]:
    """Bars of good and of defective images between `places`, on both sides of the axis at `middle`."""
    unit, bars = (HISTOGRAM_SIZE[1] - TOP - BOTTOM) / sum(most), []
    for kind, part in zip(("good", "defect"), counts):
        for index in np.flatnonzero(part):
            height = part[index] * unit
            top = middle - height if kind == "good" else middle
            bars.append(
                f'<rect class="{kind}" x="{places[index] + 0.5:.1f}" y="{top:.1f}" '
                f'width="{max(1, places[index + 1] - places[index] - 1):.1f}" height="{height:.1f}"/>'
            )
    return bars


def _histogram_axes(low: float, high: float, middle: float, most: list[int]) -> list[str]:
    """Both axes with the highest counts."""
    width, height = HISTOGRAM_SIZE
    return [
        f'<path class="axis" d="M{LEFT} {middle:.1f}H{width - RIGHT}"/>',
        _text(LEFT - 6, TOP + 8, str(most[0]), "end"),
        _text(LEFT - 6, height - BOTTOM, str(most[1]), "end"),
        _text(LEFT - 6, middle + 4, "0", "end"),
        *_score_axis(low, high),
    ]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` of them, with steps of 1, 2 or 5 times a power of
    ten."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [
        number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def scores_svg(scores: np.ndarray, threshold: float | None, extra: str = "") -> str:
    """Scores of photographs without labels: how many lie in each bin, with both axes; the threshold as a
    line, what it calls anomalous shaded."""
    size, (low, high) = HISTOGRAM_SIZE, score_range(scores, threshold)
    edges = bin_edges(low, high, BINS, threshold)
    counts = np.histogram(scores[np.isfinite(scores)], edges)[0]
    most, bottom = max(1, int(counts.max())), size[1] - BOTTOM
    places = [_x(min(1, max(0, (edge - low) / (high - low))), size) for edge in edges]
    alarm, line = _threshold_marks(threshold, low, high)
    body = [alarm]
    for tick in ticks(0, most, 4):
        if tick == int(tick):
            height = _y(tick / most, size)
            body.append(f'<path class="grid" d="M{LEFT} {height:.1f}H{size[0] - RIGHT}"/>')
            body.append(_text(LEFT - 6, height + 4, f"{tick:g}", "end"))
    for index in np.flatnonzero(counts):
        height = _y(counts[index] / most, size)
        width = max(1, places[index + 1] - places[index] - 1)
        body.append(
            f'<rect class="score" x="{places[index] + 0.5:.1f}" y="{height:.1f}" width="{width:.1f}" '
            f'height="{bottom - height:.1f}"><title>{counts[index]}</title></rect>'
        )
    body += [*_score_axis(low, high), *line]
    return _svg(size, f"Histogram of {len(scores)} image scores", body, extra)


def _threshold_marks(threshold: float | None, low: float, high: float) -> tuple[str, list[str]]:
    """The shaded area from a threshold on, and its line, of the histograms' size."""
    size = HISTOGRAM_SIZE
    where, line = f'x="{LEFT}" width="0"', []
    if threshold is not None and np.isfinite(threshold):
        place = _x((threshold - low) / (high - low), size)
        line = [f'<path class="threshold" d="M{place:.1f} {TOP - 6}V{size[1] - BOTTOM}"/>']
        where = f'x="{place:.1f}" width="{size[0] - RIGHT - place:.1f}"'
    return f'<rect class="alarm" y="{TOP}" height="{size[1] - TOP - BOTTOM}" {where}/>', line


def _score_axis(low: float, high: float) -> list[str]:
    """The axis of scores with round numbers below it."""
    size, bottom = HISTOGRAM_SIZE, HISTOGRAM_SIZE[1] - BOTTOM
    body = [f'<path class="axis" d="M{LEFT} {bottom}H{size[0] - RIGHT}"/>']
    for tick in ticks(low, high, 6):
        place = _x((tick - low) / (high - low), size)
        body.append(f'<path class="axis" d="M{place:.1f} {bottom}v4"/>')
        body.append(_text(place, bottom + 17, f"{tick:.4g}", "middle"))
    return body


def overlap_svg(overlap: Overlap, extra: str = "") -> str:
    """The distributions of normal and of defective pixels, one over the other, each as a share of its own
    fullest bin on a logarithmic axis."""
    size, bottom = HISTOGRAM_SIZE, HISTOGRAM_SIZE[1] - BOTTOM

    def height(share: float) -> float:
        return _y(max(0.0, 1 + math.log10(share) / DECADES) if share > 0 else 0.0, size)

    body = []
    for power in range(DECADES + 1):
        place = height(10.0**-power)
        body.append(f'<path class="grid" d="M{LEFT} {place:.1f}H{size[0] - RIGHT}"/>')
        body.append(_text(LEFT - 6, place + 4, f"{10.0**-power:g}", "end"))
    for kind, shares in (("good", overlap.normal), ("defect", overlap.defects)):
        width, most = (size[0] - LEFT - RIGHT) / len(shares), max(shares)
        steps = [f"V{height(share / most):.1f}h{width:.2f}" for share in shares]
        body.append(f'<path class="{kind} area" d="M{LEFT} {bottom}{"".join(steps)}V{bottom}Z"/>')
    label = f"Scores of normal and of defective pixels: {overlap.share:.0%} of the areas in common"
    return _svg(size, label, [*body, *_score_axis(overlap.low, overlap.high)], extra)


def operating_point(scores: np.ndarray, labels: np.ndarray, threshold: float | None) -> dict[str, int]:
    """What a threshold does (score >= threshold is an alarm; None: no alarm): defects, found, good,
    false_alarms."""
    alarm = np.zeros(len(scores), bool) if threshold is None else scores >= threshold
    return {
        "defects": int(labels.sum()),
        "found": int((alarm & labels).sum()),
        "good": int((~labels).sum()),
        "false_alarms": int((alarm & ~labels).sum()),
    }


def curve_svg(
    kind: str, scores: np.ndarray, labels: np.ndarray, threshold: float | None, extra: str = ""
) -> str:
    """The `roc` or `pr` curve of the image scores with the threshold's point; says so where it is not
    defined."""
    from sklearn.metrics import (
        precision_recall_curve,
        roc_curve,
    )  # takes a second, which photographs without labels need not wait

    size, keep = CURVE_SIZE, np.isfinite(scores)
    scores, labels = scores[keep], labels[keep]
    names = ("False-positive rate", "Recall") if kind == "roc" else ("Recall", "Precision")
    area = f'<path class="axis" d="M{LEFT} {TOP}V{size[1] - BOTTOM}H{size[0] - RIGHT}"/>'
    body = [
        area,
        _text(_x(0.5, size), size[1] - 2, names[0], "middle"),
        f'<text class="middle" transform="translate({LEFT - 28} {_y(0.5, size):.1f}) rotate(-90)">'
        f"{names[1]}</text>",
    ]
    for tick in TICKS:
        across, up = _x(tick, size), _y(tick, size)
        body.append(f'<path class="axis" d="M{across:.1f} {size[1] - BOTTOM}v4M{LEFT} {up:.1f}h-4"/>')
        body.append(_text(across, size[1] - BOTTOM + 15, f"{tick:g}", "middle"))
        body.append(_text(LEFT - 7, up + 4, f"{tick:g}", "end"))
    title = "ROC curve" if kind == "roc" else "Precision-recall curve"
    if not labels.any() or labels.all():
        body.append(_text(_x(0.5, size), _y(0.5, size), "not defined", "middle"))
        return _svg(size, f"{title}: not defined", body, extra)
    if kind == "roc":
        x, y, _ = roc_curve(labels, scores)
        body.append(f'<path class="chance" d="M{_x(0, size)} {_y(0, size)}L{_x(1, size)} {_y(1, size)}"/>')
    else:
        y, x, _ = precision_recall_curve(labels, scores)
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
    points = "L".join(f"{_x(x[i], size):.1f} {_y(y[i], size):.1f}" for i in chosen)
    body += [f'<path class="curve" d="M{points}"/>', _point(kind, scores, labels, threshold)]
    return _svg(size, f"{title} of the image scores", body, extra)


def _point(kind: str, scores: np.ndarray, labels: np.ndarray, threshold: float | None) -> str:
    """The threshold's point on a curve; hidden where it has no place there."""
    at = operating_point(scores, labels, threshold)
    recall, alarms = at["found"] / at["defects"], at["found"] + at["false_alarms"]
    roc, pr = (at["false_alarms"] / at["good"], recall), (recall, at["found"] / max(alarms, 1))
    x, y = roc if kind == "roc" else pr
    hidden = ' visibility="hidden"' if threshold is None or (kind == "pr" and not alarms) else ""
    place = f'cx="{_x(x, CURVE_SIZE):.1f}" cy="{_y(y, CURVE_SIZE):.1f}"'
    return f'<circle class="point" r="5.5" {place}{hidden}/>'


def plots_svg(name: str, scores: np.ndarray, labels: np.ndarray, threshold: float | None) -> str:
    """A standalone SVG file with the category's histogram, ROC and precision-recall curve."""
    width, height = HISTOGRAM_SIZE[0] + 2 * CURVE_SIZE[0] + 40, CURVE_SIZE[1] + 50
    title = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    parts = [
        histogram_svg(scores, labels, threshold, f'x="0" y="70" width="{HISTOGRAM_SIZE[0]}" height="190"')
    ]
    for index, kind in enumerate(("roc", "pr")):
        place = f'x="{HISTOGRAM_SIZE[0] + 20 + index * (CURVE_SIZE[0] + 10)}" y="40" width="250" height="230"'
        parts.append(curve_svg(kind, scores, labels, threshold, place))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">'
        f"<style>{FILE_STYLE}{STYLE}</style>"
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>{_text(16, 28, title, "title")}'
        '<text x="16" y="50" style="font: 12px system-ui; fill: var(--muted)">Image scores: good above the '
        f"axis, defects below; the line and the points are the F1-max threshold.</text>"
        f"{''.join(parts)}</svg>\n"
    )
