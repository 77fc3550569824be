"""Histograms of scores, ROC and precision-recall curve as SVG in the reports.

The report moves the threshold in them: it knows the drawing area from LEFT, RIGHT, TOP, BOTTOM and the sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from fdsl.metrics.overlap import Overlap

BINS = 44
MOST_POINTS = 240  # of a curve, evenly thinned
DECADES = 4  # of the logarithmic axis of pixels
HISTOGRAM_SIZE = (560, 190)
CURVE_SIZE = (250, 230)
# Margins round the drawing area of every chart: 17 px labels, as on a phone, do not touch the names of axes.
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 14, 40
NAME_LEFT = 13  # of the upward axis: where its name stands

STYLE = """
.chart { font: 11px system-ui, sans-serif; }
.chart text { fill: var(--muted); font-variant-numeric: tabular-nums; } .chart .end { text-anchor: end; }
.chart .middle { text-anchor: middle; } .chart .axis { stroke: var(--line); fill: none; }
.chart .normal { fill: var(--normal-fill); } .chart .defect { fill: var(--defect-fill); }
.chart .score { fill: var(--soft); } .chart .grid { stroke: var(--line); opacity: .6; }
.chart .curve { stroke: var(--ink); stroke-width: 1.6; fill: none; stroke-linejoin: round; }
.chart .area { opacity: .5; }
.chart .chance { stroke: var(--line); stroke-dasharray: 3 4; }
.chart .alarm { fill: var(--defect); opacity: .07; }
.chart .threshold { stroke: var(--ink); stroke-width: 1.5; } .chart .point { fill: var(--defect); }
.chart .point { stroke: var(--paper); stroke-width: 2; }
"""
STYLE += (  # where the drawing area lies, for the slider below it
    f".histogram {{ --chart-left: {LEFT / HISTOGRAM_SIZE[0]:.3%}; "
    f"--chart-across: {1 - (LEFT + RIGHT) / HISTOGRAM_SIZE[0]:.3%}; }}\n"
)


def score_range(scores: np.ndarray, threshold: float | None) -> tuple[float, float]:
    """The x range of the histogram: all scores and the threshold, with 2 % of room on both sides."""
    values = scores if threshold is None else np.append(scores, threshold)
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


def _x(fraction: float, size: tuple[int, int]) -> float:
    return LEFT + fraction * (size[0] - LEFT - RIGHT)


def _y(fraction: float, size: tuple[int, int]) -> float:
    return size[1] - BOTTOM - fraction * (size[1] - TOP - BOTTOM)


def _svg(size: tuple[int, int], label: str, body: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        f'aria-label="{escape(label)}">{"".join(body)}</svg>'
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def _grid_line(height: float, text: str) -> list[str]:
    """A line across a histogram, with its number on the left."""
    line = f'<path class="grid" d="M{LEFT} {height:.1f}H{HISTOGRAM_SIZE[0] - RIGHT}"/>'
    return [line, _text(LEFT - 6, height + 4, text, "end")]


def histogram_svg(scores: np.ndarray, labels: np.ndarray | None, threshold: float | None) -> str:
    """How many scores (n,) lie in each bin: those of normal images above the axis and those of defects below
    it, or without `labels` (n,) all above it. The threshold is a line, what it calls anomalous is shaded."""
    low, high = score_range(scores, threshold)
    edges = bin_edges(low, high, BINS, threshold)
    groups = {"score": scores} if labels is None else {"normal": scores[~labels], "defect": scores[labels]}
    counts = {kind: np.histogram(group, edges)[0] for kind, group in groups.items()}
    most = [max(1, int(count.max())) for count in counts.values()]
    unit = 1 / sum(most)
    axis = 1 - most[0] * unit
    places = [_x(min(1, max(0, (edge - low) / (high - low))), HISTOGRAM_SIZE) for edge in edges]
    bars, grid = [], []
    for (kind, count), highest, sign in zip(counts.items(), most, (1, -1)):
        for index in np.flatnonzero(count):
            ends = sorted(_y(axis + sign * rows * unit, HISTOGRAM_SIZE) for rows in (0, count[index]))
            bars.append(
                f'<rect class="{kind}" x="{places[index] + 0.5:.1f}" y="{ends[0]:.1f}" '
                f'width="{max(1, places[index + 1] - places[index] - 1):.1f}" '
                f'height="{ends[1] - ends[0]:.1f}"><title>{count[index]}</title></rect>'
            )
        for tick in ticks(0, highest, max(1, round(5 * highest * unit))):
            if tick == int(tick):
                grid += _grid_line(_y(axis + sign * tick * unit, HISTOGRAM_SIZE), f"{tick:g}")
    shade, line = 'width="0"', ""
    if threshold is not None:
        place, (width, height) = _x((threshold - low) / (high - low), HISTOGRAM_SIZE), HISTOGRAM_SIZE
        line = f'<path class="threshold" d="M{place:.1f} {TOP - 6}V{height - BOTTOM}"/>'
        shade = f'x="{place:.1f}" width="{width - RIGHT - place:.1f}"'
    area = f'<rect class="alarm" y="{TOP}" height="{HISTOGRAM_SIZE[1] - TOP - BOTTOM}" {shade}/>'
    label = f"Histogram of {len(scores)} image scores"
    if labels is not None:
        label += f": {(~labels).sum()} of normal images above, {labels.sum()} of defects below the axis"
    return _svg(HISTOGRAM_SIZE, label, [area, *grid, *bars, *_score_axis(low, high), line])


def _score_axis(low: float, high: float) -> list[str]:
    """The axis of scores with round numbers below it."""
    bottom = HISTOGRAM_SIZE[1] - BOTTOM
    body = [f'<path class="axis" d="M{LEFT} {bottom}H{HISTOGRAM_SIZE[0] - RIGHT}"/>']
    for tick in ticks(low, high, 6):
        place = _x((tick - low) / (high - low), HISTOGRAM_SIZE)
        body.append(f'<path class="axis" d="M{place:.1f} {bottom}v4"/>')
        body.append(_text(place, bottom + 17, f"{tick:.4g}", "middle"))
    return body


def overlap_svg(overlap: Overlap) -> str:
    """The distributions of normal and of defective pixels, one over the other, each as a share of its own
    fullest bin on a logarithmic axis."""

    def height(share: float) -> float:
        return _y(max(0.0, 1 + math.log10(share) / DECADES) if share > 0 else 0.0, HISTOGRAM_SIZE)

    body = []
    for power in range(DECADES + 1):
        body += _grid_line(height(10.0**-power), f"{10.0**-power:g}" if power < 3 else f"1e-{power}")
    for kind, shares in (("normal", overlap.normal), ("defect", overlap.defects)):
        width, most = (HISTOGRAM_SIZE[0] - LEFT - RIGHT) / len(shares), max(shares)
        steps = "".join(f"V{height(share / most):.1f}h{width:.2f}" for share in shares)
        body.append(f'<path class="{kind} area" d="M{LEFT} {height(0)}{steps}V{height(0)}Z"/>')
    label = f"Scores of normal and of defective pixels: {overlap.share:.0%} of the areas in common"
    return _svg(HISTOGRAM_SIZE, label, [*body, *_score_axis(overlap.low, overlap.high)])


def operating_point(scores: np.ndarray, labels: np.ndarray, threshold: float | None) -> dict[str, int]:
    """What a threshold does (score >= threshold is an alarm; None: no alarm): how many images are defects,
    detected, normal, false_alarms."""
    alarm = np.zeros(len(scores), bool) if threshold is None else scores >= threshold
    return {
        "defects": int(labels.sum()),
        "detected": int((alarm & labels).sum()),
        "normal": int((~labels).sum()),
        "false_alarms": int((alarm & ~labels).sum()),
    }


def curve_svg(kind: str, scores: np.ndarray, labels: np.ndarray, threshold: float | None) -> str:
    """The `roc` or `pr` curve of the image scores with the threshold's point, or the words "not
    defined"."""
    # They take a second, which photographs without labels need not wait for.
    from sklearn.metrics import precision_recall_curve, roc_curve

    size = CURVE_SIZE
    names = ("False-positive rate", "Recall") if kind == "roc" else ("Recall", "Precision")
    body = [
        f'<path class="axis" d="M{LEFT} {TOP}V{size[1] - BOTTOM}H{size[0] - RIGHT}"/>',
        _text(_x(0.5, size), size[1] - 4, names[0], "middle"),
        f'<text class="middle" transform="translate({NAME_LEFT} {_y(0.5, size):.1f}) rotate(-90)">'
        f"{names[1]}</text>",
    ]
    for tick in ticks(0, 1, 5):
        across, up = _x(tick, size), _y(tick, size)
        body.append(f'<path class="axis" d="M{across:.1f} {size[1] - BOTTOM}v4M{LEFT} {up:.1f}h-4"/>')
        body.append(_text(across, size[1] - BOTTOM + 15, f"{tick:g}", "middle"))
        body.append(_text(LEFT - 7, up + 4, f"{tick:g}", "end"))
    title = "ROC curve" if kind == "roc" else "Precision-recall curve"
    if not labels.any() or labels.all():
        body.append(_text(_x(0.5, size), _y(0.5, size), "not defined", "middle"))
        return _svg(size, f"{title}: not defined", body)
    if kind == "roc":
        x, y, _ = roc_curve(labels, scores)
        body.append(f'<path class="chance" d="M{_x(0, size)} {_y(0, size)}L{_x(1, size)} {_y(1, size)}"/>')
    else:
        y, x, _ = precision_recall_curve(labels, scores)
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
    points = "L".join(f"{_x(x[i], size):.1f} {_y(y[i], size):.1f}" for i in chosen)
    body += [f'<path class="curve" d="M{points}"/>', _point(kind, scores, labels, threshold)]
    return _svg(size, f"{title} of the image scores", body)


def _point(kind: str, scores: np.ndarray, labels: np.ndarray, threshold: float | None) -> str:
    """The threshold's point on a curve; hidden where it has no place there."""
    at = operating_point(scores, labels, threshold)
    recall, alarms = at["detected"] / at["defects"], at["detected"] + at["false_alarms"]
    roc, pr = (at["false_alarms"] / at["normal"], recall), (recall, at["detected"] / max(alarms, 1))
    x, y = roc if kind == "roc" else pr
    hidden = ' visibility="hidden"' if threshold is None or (kind == "pr" and not alarms) else ""
    place = f'cx="{_x(x, CURVE_SIZE):.1f}" cy="{_y(y, CURVE_SIZE):.1f}"'
    return f'<circle class="point" r="5.5" {place}{hidden}/>'
