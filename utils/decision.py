"""From scores and maps to a decision: thresholds, and the boxes of what was found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import cv2
import numpy as np

from utils.config import ConfigError
from utils.metrics import image_metrics

MOST_BOXES = 10
MOST_SUMMITS = 40  # hot regions that are looked at
HALF = 0.5  # a region's box bounds what lies above this share of its own height
SMALLEST_SHARE = 5e-4  # regions below this share of the photograph are not boxed, the hottest excepted
TINY = 1e-6  # scores are kept this far from 0 and 1
HELD_OUT, KIND, STRICT, COPY = 0, 1, 2, 3
COPY_WEIGHT = 3  # degrees of freedom that the copies of two or more references stand for


@dataclass(frozen=True)
class Threshold:
    """From `score` on a photograph is anomalous, from `level` on a patch is (None: not known); `source` says
    why."""

    score: float
    level: float | None
    source: str


@dataclass(frozen=True)
class NormalScores:
    """What photographs of good parts score when the detector does not know them.

    scores, peaks (n,): image score and highest map value; how (n,): HELD_OUT, a reference against the others,
    and COPY, its varied copies, the same number for each reference in turn; of a single reference KIND,
    against itself, and STRICT, against itself elsewhere. floor: the median of all their map values.
    """

    scores: np.ndarray
    peaks: np.ndarray
    how: np.ndarray
    floor: float

    def threshold(self, rate: float) -> Threshold:
        """The threshold that normal photographs reach at the wished `rate`, 0 < rate < 1."""
        if HELD_OUT in self.how:
            how = f"leave-one-out of the references and their copies, {len(self.how)} scores"
        else:
            how = f"copies and tiles of the one reference, {len(self.how)} scores; rough, two references make it far better"
        return Threshold(
            upper_limit(self.scores, self.how, rate),
            upper_limit(self.peaks, self.how, rate),
            f"false-alarm rate {rate:g} ({how})",
        )


def upper_limit(values: np.ndarray, how: np.ndarray, rate: float) -> float:
    """The value in (0,1) that normal photographs exceed at the rate wished, from held-out values (n,) in
    [0,1].

    The log-odds are taken as normal. HELD_OUT references give the mean; their variance is shrunk towards that
    of COPY values about each reference's own mean, which counts as COPY_WEIGHT degrees of freedom, and grows
    by 1 + 1/K for a new photograph. A single reference's KIND and STRICT values bound the mean from below and
    above: it lies anywhere between them alike, which adds (distance)^2 / 12 to the variance within each.
    """
    clean = np.clip(np.asarray(values, np.float64), TINY, 1 - TINY)
    odds = np.log(clean / (1 - clean))
    if HELD_OUT in how:
        own, copies = odds[how == HELD_OUT], odds[how == COPY].reshape(int((how == HELD_OUT).sum()), -1)
        mean, between = float(own.mean()), float(((own - own.mean()) ** 2).sum())
        within, weight = (
            (float(copies.var(axis=1, ddof=1).mean()), COPY_WEIGHT) if copies.shape[1] > 1 else (0.0, 0)
        )
        freedom = len(own) - 1 + weight
        variance = (between + weight * within) / freedom * (1 + 1 / len(own)) if freedom else 0.0
    else:
        groups = [odds[how == kind] for kind in np.unique(how)]
        mean = float(np.mean([group.mean() for group in groups]))
        variance = float(np.mean([group.var(ddof=1) if len(group) > 1 else 0.0 for group in groups]))
        variance += (max(group.mean() for group in groups) - min(group.mean() for group in groups)) ** 2 / 12
    return min(
        np.nextafter(1.0, 0.0).item(),
        float(1 / (1 + np.exp(-(mean + NormalDist().inv_cdf(1 - rate) * variance**0.5)))),
    )


def labelled_threshold(scores: np.ndarray, labels: np.ndarray) -> Threshold:
    """The threshold with the best F1 on labelled photographs: scores (n,), labels (n,) bool.

    Half-way between the lowest score that is called anomalous and the next one below. ConfigError unless
    there are both good and anomalous ones.
    """
    best = image_metrics(scores, labels)
    if best["f1_threshold_sp"] is None:
        raise ConfigError(
            "--threshold-from labels needs both good and anomalous photographs among the labelled ones."
        )
    below = scores[scores < best["f1_threshold_sp"]]
    score = float(best["f1_threshold_sp"] + below.max()) / 2 if len(below) else float(best["f1_threshold_sp"])
    return Threshold(score, None, f"labels: F1 {best['f1_sp']:.3f} on {len(labels)} labelled photographs")


@dataclass(frozen=True)
class Box:
    """A hot region in the photograph's own pixels: left, top, width, height; its pixels (`area`); its highest
    value."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


def find_boxes(anomaly_map: np.ndarray, level: float | None = None, most: int = MOST_BOXES) -> list[Box]:
    """Boxes of the hot regions of an anomaly map (H,W), the hottest first.

    A region is hot where the map reaches `level`, or without one half-way from its median to its maximum; a
    map that nowhere reaches `level` has the region of its maximum alone. Its box bounds what is 8-connected
    with its hottest pixel above half-way from the map's median to that pixel's value, so that boxes neither
    shrink with a high level nor blow up with a low one; no pixel belongs to two. Of two boxes one of which
    lies inside the other the outer one is left, with the pixels of both and the higher peak. A map without
    variation has no box.
    """
    peak, floor = float(anomaly_map.max()), float(np.median(anomaly_map))
    if not peak > floor:
        return []
    if level is not None and level > peak:
        level, most = peak, 1
    level = floor + HALF * (peak - floor) if level is None or level <= floor else level
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (anomaly_map >= level).astype(np.uint8), connectivity=8
    )
    summits = []
    for index in range(1, count):
        left, top, width, height = (int(stats[index, part]) for part in range(4))
        part = np.s_[top : top + height, left : left + width]
        values = np.where(labels[part] == index, anomaly_map[part], -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        summits.append((float(values[row, column]), top + int(row), left + int(column)))
    boxes, free, smallest = [], np.ones(anomaly_map.shape, bool), SMALLEST_SHARE * anomaly_map.size
    for top_value, row, column in sorted(summits, key=lambda summit: (-summit[0], *summit[1:]))[
        :MOST_SUMMITS
    ]:
        if not free[row, column]:
            continue  # on the slope of a hotter one
        around = (free & (anomaly_map >= min(top_value, floor + HALF * (top_value - floor)))).astype(
            np.uint8, order="C"
        )
        area, *_, (left, top, width, height) = cv2.floodFill(around, None, (column, row), 2, flags=8)
        free &= around != 2
        if not boxes or area >= smallest:
            _add(Box(left, top, width, height, area, top_value), boxes)
        if len(boxes) == most:
            break
    return boxes


def _add(box: Box, boxes: list[Box]) -> None:
    """Appends a box, or makes it one with the first hotter one that holds it or that it holds."""
    for index, other in enumerate(boxes):
        if _holds(other, box) or _holds(box, other):
            outer = other if _holds(other, box) else box
            boxes[index] = replace(outer, area=other.area + box.area, peak=max(other.peak, box.peak))
            return
    boxes.append(box)


def _holds(outer: Box, inner: Box) -> bool:
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and outer.x + outer.width >= inner.x + inner.width
        and outer.y + outer.height >= inner.y + inner.height
    )
